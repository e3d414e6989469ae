"""Passes that mend a model for INT8: ranges made alike, weights rounded, biases corrected."""
