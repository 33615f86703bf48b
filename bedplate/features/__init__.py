"""Definitions as pure data: entities, feature views, derived features, signatures."""
