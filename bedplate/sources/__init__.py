"""Sources: event and entity tables where they already are."""
