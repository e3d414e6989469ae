"""Measurements: accuracy, parity, latency, fidelity to the graph, and what they were taken on."""
