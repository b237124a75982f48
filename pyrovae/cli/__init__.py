"""The command line: a module for each script, whose `main` returns the exit code."""
