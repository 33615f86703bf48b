"""Offline: history as as-of indexes, and point-in-time lookups over it."""
