"""Bundles: their format, and the engine that one is loaded as."""
