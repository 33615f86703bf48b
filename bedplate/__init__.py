"""Bedplate: an ML foundation platform."""
