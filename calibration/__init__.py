"""Data and preprocessing, observers, ranges, and the oracle that they are collected with."""
