"""Layers: the parts that models are made of."""
