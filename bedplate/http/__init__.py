"""HTTP: the server and its processes, who is let in, and whose turn it is."""
