"""Passes over the ONNX graph that leave its function as it is."""
