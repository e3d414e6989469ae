"""Child processes: a crash or a hang in one is an error here."""
