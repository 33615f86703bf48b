"""Online: the values of now, in a store that a stream keeps current."""
