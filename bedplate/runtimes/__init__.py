"""Runtimes: what runs the file of a model, and the tensors that go in and out."""
