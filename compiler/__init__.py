"""The framework: it knows passes and targets by their interfaces only."""
