"""The registry: runs, model versions, aliases and lineage."""
