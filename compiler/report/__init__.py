"""What was found, for a person and for a machine: terminal, JSON and one self-contained page."""
