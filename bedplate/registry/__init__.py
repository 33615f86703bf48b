"""Runs, model versions, aliases and lineage: plain folders with a SQLite index beside them."""
