"""`rtc targets | doctor`: what this machine can do, and what it lacks."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from rtc.compiler.cli.answer import Answer, command
from rtc.compiler.core.errors import MachineError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rtc.compiler.cli.doctor import Finding
    from rtc.targets.loader import TargetRow

app = typer.Typer()


@command(app, "targets")
def targets() -> Answer:
    """List devices: which can be built for and run on here, and what is missing.

    \b
    Example:
      rtc targets
    """
    from rtc.targets.loader import survey

    rows = survey()
    return Answer({"targets": [_target(row) for row in rows]}, _targets_table(rows))


def _target(row: TargetRow) -> dict[str, Any]:
    profile = row.profile
    return {
        "name": profile.name,
        "kind": profile.kind,
        "vendor": profile.vendor,
        "compute_capability": profile.compute_capability,
        "buildable": row.buildable,
        "runnable": row.runnable,
        "runtimes": [
            {"name": r.backend, "builds": asdict(r.builds), "runs": asdict(r.runs)}
            for r in row.runtimes
        ],
    }


def _targets_table(rows: tuple[TargetRow, ...]) -> RenderableType:
    """A row for each runtime of each target; below, what mends what is missing."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("target", "runtime", "builds", "runs", "missing here", box=SIMPLE_HEAD)
    fixes: dict[str, str] = {}
    for row in rows:
        name = row.profile.name
        for runtime in row.runtimes:
            lack = runtime.runs if runtime.builds.ok else runtime.builds
            version = f"{runtime.backend} {runtime.builds.version}".rstrip()
            marks = (
                "yes" if availability.ok else "no"
                for availability in (runtime.builds, runtime.runs)
            )
            table.add_row(name, version, *marks, Text(lack.missing))
            name = ""
            if lack.fix:
                fixes[lack.missing] = lack.fix
    return Group(table, *(Text(f"{missing}: {fix}") for missing, fix in fixes.items()))


@command(app, "doctor")
def doctor() -> Answer:
    """Check this machine: versions, extras, space, compilers, devices; each problem with its fix.

    Ends with exit code 5 when no target can be built here.

    \b
    Example:
      rtc doctor --json
    """
    from rtc.compiler.cli.doctor import examine

    findings = examine()
    buildable = any(f.ok for f in findings if f.subject.startswith("target "))
    failure = None if buildable else MachineError("no target can be built here", id="no-target")
    return Answer({"findings": [asdict(f) for f in findings]}, _findings(findings), failure)


def _findings(findings: tuple[Finding, ...]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for finding in findings:
        mark = Text("ok", "green") if finding.ok else Text("--", "yellow")
        text = Text(finding.found)
        if finding.fix:
            text.append(f"\n{finding.fix}", "bold")
        table.add_row(mark, finding.subject, text)
    return table
