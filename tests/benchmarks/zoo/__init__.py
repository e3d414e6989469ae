"""Architectures of torchvision and timm, and what rtc makes of each: see `coverage.py`."""
