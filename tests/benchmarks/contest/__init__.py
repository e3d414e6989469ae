"""rtc against its peers: the parts of `tests/benchmarks/peers.py`."""
