"""What ships for tests: an event simulator, a clock to set, and one contract suite per extension point."""
