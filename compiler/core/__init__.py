"""Plain data and interfaces: standard library and numpy only, and nothing of ours outside."""
