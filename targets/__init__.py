"""Devices as data, and the runtimes that build for them."""
