"""What each runtime is offered: every variant of precision, with its threads."""
