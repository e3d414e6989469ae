"""Recipes and plans: what a person asks for, read and checked."""
