"""Commands: one module for each group of them, and what a terminal shows."""
