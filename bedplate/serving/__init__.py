"""Serving: from a request to scored candidates."""
