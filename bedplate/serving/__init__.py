"""Serving: from a request to a ranked answer."""
