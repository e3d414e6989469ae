"""A graph built into an engine in a child process, and held against its plan."""
