"""Definitions of other feature stores, carried over into Bedplate projects."""
