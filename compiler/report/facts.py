"""The few facts that a reader looks for first; the page's cards and the terminal's summary."""

from __future__ import annotations

from dataclasses import dataclass

from rtc.compiler.core.evidence import Measured, Pending
from rtc.compiler.core.results import (
    FLOAT_MODEL,
    INCOMING_MODEL,
    SHIPPED_ENGINE,
    LatencyRow,
    Report,
)
from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.report.figures import figure, points, rate, significant, size


@dataclass(frozen=True)
class Fact:
    """One fact: what it is of, its figure, and what to read with it.

    `kind` is that of the evidence ("measured", "estimated", "pending"), "" for a plain count.
    """

    title: str
    kind: str
    text: str
    details: tuple[str, ...] = ()


def facts(report: Report) -> tuple[Fact, ...]:
    """What the summary says of one target, most asked for first."""
    batches = sorted({1, report.batch})
    rows = [_top1(report), _agreement(report)]
    rows += [_latency(report, batch) for batch in batches]
    rows += [_throughput(report), _layers(report), _engine(report)]
    return tuple(fact for fact in rows if fact is not None)


def _top1(report: Report) -> Fact | None:
    engine, model = report.accuracy_of(SHIPPED_ENGINE), report.accuracy_of(FLOAT_MODEL)
    incoming = report.accuracy_of(INCOMING_MODEL)
    if engine is None:
        return None
    shown = figure(engine.top1)
    details = [f"95 % CI {shown.spread}"] if shown.spread else []
    if isinstance(engine.top1, Measured):
        count = engine.top1.samples
        details.append(f"{count:,} test sample" + ("s" if count != 1 else ""))
    if model is not None:
        change = points(model.top1, engine.top1)
        details.insert(0, f"float {figure(model.top1).text}" + (f", {change}" if change else ""))
    if incoming is not None:
        change = points(incoming.top1, engine.top1)
        came = f"{INCOMING_MODEL} {figure(incoming.top1).text}"
        details.insert(0, came + (f", {change}" if change else ""))
    return Fact("top-1", shown.kind, shown.text, tuple(details))


def _agreement(report: Report) -> Fact | None:
    engine = report.accuracy_of(SHIPPED_ENGINE)
    if engine is None or engine.agreement is None:
        return None
    shown = figure(engine.agreement)
    return Fact("agreement", shown.kind, shown.text, ("with the float model",))


def _latency(report: Report, batch: int) -> Fact | None:
    rows = report.latency_of(report.shipped, LatencyMode.FORWARD, batch)
    if not rows:
        return None
    row = _best(rows)
    shown = figure(row.evidence)
    whole = report.latency_of(report.shipped, LatencyMode.END_TO_END, batch)
    details = [_against(report, row), _end_to_end(whole), _waits(rows)]
    return Fact(
        f"latency, batch {batch}", shown.kind, shown.text, tuple(text for text in details if text)
    )


def _best(rows: tuple[LatencyRow, ...]) -> LatencyRow:
    """The row that has a figure, where one has."""
    return next((row for row in rows if not isinstance(row.evidence, Pending)), rows[0])


def _against(report: Report, row: LatencyRow) -> str:
    if row.speedup is None:
        return ""
    baseline = report.latency_of(report.baseline, row.mode, row.batch)
    beside = f" ({figure(_best(baseline).evidence).text})" if baseline else ""
    low, high = row.speedup_interval or (row.speedup, row.speedup)
    sure = "" if low == high else f", 95 % CI {significant(low)} – {significant(high)}×"
    return f"{speedup(row.speedup)} {report.baseline}{beside}{sure}"


def speedup(factor: float) -> str:
    """A factor as words: "3.10× faster than", "0.80× the speed of"."""
    return f"{significant(factor)}× " + ("faster than" if factor > 1 else "the speed of")


def _end_to_end(rows: tuple[LatencyRow, ...]) -> str:
    if not rows or isinstance(_best(rows).evidence, Pending):
        return ""
    shown = figure(_best(rows).evidence)
    mark = "≈ " if shown.kind == "estimated" else ""
    return f"end-to-end {mark}{shown.text}"


def _waits(rows: tuple[LatencyRow, ...]) -> str:
    """What device the case still waits for, where a figure stands beside it."""
    waiting = [row.evidence for row in rows if isinstance(row.evidence, Pending)]
    return f"pending: {waiting[0].waits_for}" if waiting else ""


def _throughput(report: Report) -> Fact | None:
    rows = report.latency_of(report.shipped, LatencyMode.FORWARD, report.batch)
    row = _best(rows) if rows else None
    if row is None or row.fps is None:
        return None
    return Fact(
        f"throughput, batch {row.batch}",
        figure(row.evidence).kind,
        rate(row.fps),
        ("samples a second",),
    )


def _layers(report: Report) -> Fact | None:
    if not report.layers:
        return None
    changed = f"{len(report.changed())} of {len(report.layers)}"
    unknown = len(report.unknown())
    details = ("by the builder", *([f"{unknown} unknown"] if unknown else []))
    return Fact("layers changed", "", changed, details)


def _engine(report: Report) -> Fact | None:
    if report.engine_bytes is None:
        return None
    return Fact("engine", "", size(report.engine_bytes), (report.shipped,))
