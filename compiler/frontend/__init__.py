"""The front: a model and samples read, settled and simplified into the float model."""
