"""One YAML file per device."""
