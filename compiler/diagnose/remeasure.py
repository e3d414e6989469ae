"""A bundle once more: its accuracy again, and its latency on the device that it waited for.

A bundle is never changed. What the device completes lies beside it, as `<bundle>.bench.json` and
`<bundle>.bench.html`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.bundle import bundles
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split, Splits
from rtc.compiler.core.errors import DataError, RtcError
from rtc.compiler.core.evidence import Measured
from rtc.compiler.core.outputs import output_kind
from rtc.compiler.core.progress import Progress, silent
from rtc.compiler.core.results import (
    FLOAT_MODEL,
    INCOMING_MODEL,
    SHIPPED_ENGINE,
    AccuracyRow,
    GateRow,
    LatencyRow,
    Report,
)
from rtc.compiler.core.verdicts import CandidateState, LatencyMode
from rtc.compiler.documents import strict_yaml
from rtc.compiler.measure.comparison import Subject, engine_subject
from rtc.compiler.measure.latency import Bench
from rtc.compiler.recipe.schema import Recipe, load_recipe, parse_recipe
from rtc.compiler.select import gates
from rtc.compiler.storage import files

if TYPE_CHECKING:
    from rtc.compiler.bundle.engine import Engine


@dataclass(frozen=True)
class Revisited:
    """A verified bundle with the recipe, samples and report that belong to it."""

    verified: bundles.Verified
    recipe: Recipe
    data: Splits
    report: Report

    @property
    def same_data(self) -> bool:
        """Whether the samples are those that the bundle was compiled with."""
        return self.data.digest == self.verified.manifest.sources.get("data")

    @property
    def reported(self) -> tuple[AccuracyRow, ...]:
        """What the bundle's own report says of its engine's accuracy."""
        row = self.report.accuracy_of(SHIPPED_ENGINE)
        return () if row is None else (row,)


def revisit(path: Path, recipe_path: Path | None = None) -> Revisited:
    """Verify a bundle, and find its recipe's data again.

    Args:
        path: as `bundle.verify` takes it.
        recipe_path: the recipe's file, where its data lies beside it; the bundle's copy otherwise.

    Raises:
        IntegrityError: the bundle is not what was published.
        RecipeError, DataError: the recipe cannot be read, or its data is not there.
    """
    from rtc.compiler.frontend.samples import splits_of
    from rtc.compiler.publish.bundle_content import report_of

    verified = bundles.verify(path)
    recipe = _own_recipe(verified) if recipe_path is None else load_recipe(recipe_path)
    recipe.admit_code()
    return Revisited(verified, recipe, splits_of(recipe), report_of(verified))


def _own_recipe(verified: bundles.Verified) -> Recipe:
    """The recipe in a bundle; data that lies beside the recipe is looked for in this folder."""
    path = verified.path / "recipe.yaml"
    document = strict_yaml.parse(verified.files[path.name], str(path))
    recipe = parse_recipe(document, Path.cwd() / path.name)
    if recipe.data.npz is not None and not recipe.resolve(recipe.data.npz).is_file():
        raise DataError(
            "the bundle's samples lie beside its recipe",
            where=str(verified.path),
            seen=recipe.data.npz,
            fix="go to the recipe's folder, or name the recipe with --recipe FILE",
        )
    return recipe


def evaluate(again: Revisited, progress: Progress = silent) -> tuple[AccuracyRow, ...]:
    """Accuracy of the float model, and of the shipped bytes, on the test samples.

    Raises:
        MachineError: the engine does not run here.
        BuilderError: it computes something else than its graph ("engine-differs").
    """
    from rtc.compiler.bundle.engine import Engine, probe_of
    from rtc.compiler.measure.accuracy import accuracy_row
    from rtc.compiler.measure.provenance import machine
    from rtc.compiler.measure.reference import REFERENCE, reference_logits

    test, entry = again.data.test, again.verified.manifest.engine
    if test.labels is None:
        raise DataError("the test samples have no labels", where=again.recipe.name)
    with Engine(again.verified) as engine:
        engine.hold(probe_of(again.verified, test, engine.device), entry.batches)
        shipped = _logits(engine, test, entry.batches[2], progress)
        place = f"{engine.runtime} on {machine()}"
    floats = reference_logits(again.verified.files["float.onnx"], test)
    here, kind = f"{REFERENCE} on {machine()}", output_kind(floats)
    return (
        accuracy_row(FLOAT_MODEL, floats, test.labels, None, here, kind=kind),
        accuracy_row(SHIPPED_ENGINE, shipped, test.labels, floats, place, kind=kind),
    )


def _logits(engine: Engine, test: Split, batch: int, progress: Progress) -> Array:
    """The engine's output for every sample, `batch` at a time."""
    parts = []
    for done, inputs in enumerate(test.batches(batch)):
        progress(done * batch, len(test))
        parts.append(engine(inputs))
    return np.concatenate(parts)


def bench(
    again: Revisited, batches: Sequence[int], seconds: float, progress: Progress = silent
) -> Report:
    """Time the engine here: the bundle's report, with what was measured in place of what waited.

    Args:
        again: the bundle.
        batches: batches to time; the smallest and the recipe's when empty.
        seconds: time for all timings together.
        progress: told of every case and round.

    Raises:
        MachineError: the engine does not run here.
        BuilderError: it computes something else than its graph at one of them ("engine-differs").
    """
    from rtc.compiler.bundle.engine import admit
    from rtc.compiler.measure.provenance import device

    smallest, _, largest = again.verified.manifest.engine.batches
    asked = tuple(dict.fromkeys(batches or (smallest, again.recipe.batch)))
    for batch in asked:
        if not smallest <= batch <= largest:
            expected = str(largest) if smallest == largest else f"{smallest} to {largest}"
            raise DataError("the engine takes no such batch", seen=str(batch), expected=expected)
    with Bench([_subject(again)], again.data.test, asked, progress) as running:
        _started(running)
        comparison = running.time(seconds, seed=again.recipe.seed, progress=progress)
        _started(running)
    _, request = admit(again.verified)
    where = device(request.profile.kind)
    return completed(again, comparison.rows(baseline="", where=where), comparison.notes())


def completed(again: Revisited, rows: Sequence[LatencyRow], notes: Sequence[str]) -> Report:
    """A report with rows that were measured in place of those of the same case, gates included."""
    report = again.report
    measured = {(row.subject, row.mode, row.batch) for row in rows}
    kept = [r for r in report.latency if (r.subject, r.mode, r.batch) not in measured]
    updated = replace(report, latency=(*kept, *rows), notes=(*report.notes, *notes))
    judged = _gates(updated, again.recipe)
    passed, reasons = gates.all_passed(judged), gates.reasons(judged)
    candidates = tuple(
        replace(row, state=CandidateState.REFUSED, reason=reasons)
        if reasons and row.state is CandidateState.SHIPPED
        else row
        for row in report.candidates
    )
    return replace(
        updated,
        gates=judged,
        passed=passed,
        headline=_headline(updated, rows, judged),
        candidates=candidates,
    )


def publish(again: Revisited, report: Report) -> tuple[Path, Path]:
    """Write a completed report beside its bundle, as JSON and as a page."""
    from rtc.compiler.report import html, serial

    home, name = again.verified.path.parent, again.verified.path.name
    contents = {
        f"{name}.bench.json": serial.to_json(report),
        f"{name}.bench.html": html.render(report).encode(),
    }
    with files.explained(home, elsewhere="copy the bundle to another folder"):
        with files.drafting(home) as draft:
            files.write_files(draft, contents)
            for file in contents:
                (draft / file).replace(home / file)
        files.sync_folder(home)
    written, page = (home / file for file in contents)
    return written, page


def _subject(again: Revisited) -> Subject:
    from rtc.compiler.bundle.engine import admit, probe_of

    backend, request = admit(again.verified)
    known = probe_of(again.verified, again.data.test, request.profile)
    return engine_subject(again.report.shipped, backend.name, again.verified.engine, request, known)


def _started(bench: Bench) -> None:
    """One engine is all there is to measure: its failure is the measurement's."""
    failures: list[RtcError] = list(bench.failures.values())
    if failures:
        raise failures[0]


def _gates(report: Report, recipe: Recipe) -> tuple[GateRow, ...]:
    """The report's gates; those that waited for this device are judged now."""
    engine, floats = report.accuracy_of(SHIPPED_ENGINE), report.accuracy_of(FLOAT_MODEL)
    rows = report.latency_of(report.shipped, LatencyMode.END_TO_END, recipe.batch)
    if engine is None or floats is None or not rows:
        return report.gates
    incoming = report.accuracy_of(INCOMING_MODEL)
    findings = gates.Findings(engine, floats, rows[-1], report.layers, incoming)
    now = {row.name: row for row in gates.judge(recipe.gates, findings)}
    return tuple(now.get(r.name, r) if r.passed is None else r for r in report.gates)


def _headline(report: Report, rows: Sequence[LatencyRow], judged: Sequence[GateRow]) -> str:
    if reasons := gates.reasons(judged):
        return f"{report.shipped} fails: {reasons}"
    sentences = [
        f"{row.evidence.value:.3g} ms {row.mode} at batch {row.batch}"
        for row in rows
        if isinstance(row.evidence, Measured)
    ]
    return f"{report.shipped} measured: {', '.join(sentences)}"
