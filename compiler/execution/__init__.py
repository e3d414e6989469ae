"""Stages whose results are kept, and passes run as stages with their certificates."""
