"""Inference: models that are loaded, their versions, and the calls that requests share."""
