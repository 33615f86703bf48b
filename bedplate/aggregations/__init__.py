"""Aggregations: from events to a feature's value, the same in history and online."""
