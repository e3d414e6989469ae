"""`rtc precision`: the group."""

from __future__ import annotations

from rtc.compiler.cli import culprits, plans
from rtc.compiler.cli.answer import group

app = group("precision", "Examine which layer computes in which precision, and what it costs.")
for _commands in (plans.app, culprits.app):
    app.add_typer(_commands)
