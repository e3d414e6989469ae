"""What several passes stand on."""
