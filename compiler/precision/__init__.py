"""Deciding precision: the search over whole plans, and the questions a person asks of one."""
