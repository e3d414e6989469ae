"""The search for the mix: what layers lose, what they cost, and trials on the real engine."""
