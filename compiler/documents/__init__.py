"""Documents that people write: YAML that cannot surprise, and its values against types."""
