"""Features: definitions as pure data, compiled against the schema of their sources."""
