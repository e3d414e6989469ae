"""Passes that decide precision and write it into the graph."""
