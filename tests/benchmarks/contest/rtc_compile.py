"""rtc itself, called as a user would: `compile` of a recipe that says what the gates are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contest.search import Files, Task

ENGINE = "engine"


def search(task: Task) -> tuple[Files, dict[str, Any]]:
    """Compile the recipe at `task.args["recipe"]` with an empty cache; the engine that ships."""
    from rtc.compiler.bundle import bundles
    from rtc.compiler.pipeline import compile as compile_recipe
    from rtc.compiler.storage.store import Store

    (result,) = compile_recipe(
        Path(task.args["recipe"]), out=task.folder / "build", store=Store(task.folder / "store")
    )
    shipped = bundles.verify(result.bundle)
    entry, report = shipped.manifest.engine, result.report
    facts = {
        "backend": entry.backend,
        "batches": entry.batches,
        "threads": entry.threads,
        "shipped": report.shipped,
        "passed": report.passed,
        "candidates": [_candidate(row) for row in report.candidates],
        "stages": {row.name: row.seconds for row in report.stages},
    }
    return {ENGINE: shipped.engine}, facts


def _candidate(row: Any) -> dict[str, Any]:
    return {
        "name": row.name,
        "state": row.state,
        "ms": None if row.latency is None else row.latency.value,
        "top1": None if row.top1 is None else row.top1.value,
        "reason": row.reason,
    }
