"""Candidates measured, held to the gates, and the one that ships."""
