"""Networks that recipes name, as PyTorch modules."""
