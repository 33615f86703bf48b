"""Aggregations: the algebra that history and the online store share."""
