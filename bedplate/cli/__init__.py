"""The command line: a command's file is loaded when it is called."""
