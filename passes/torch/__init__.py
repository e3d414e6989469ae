"""Passes over PyTorch modules, and the export that ends them."""
