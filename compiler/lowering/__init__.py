"""A precision plan made, and written into the graph by passes."""
