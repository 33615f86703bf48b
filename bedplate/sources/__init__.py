"""Sources: event tables where they already are."""
