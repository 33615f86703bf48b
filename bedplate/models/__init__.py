"""Models: typed configuration and the zoo."""
