"""Geometry of the page's two pictures: latency distributions and training curves.

Plain numbers that a template draws as SVG: the drawing then follows the page's colours in the dark
and on paper, needs no script, and is the same bytes every time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rtc.compiler.core.results import Curve, LatencyRow
from rtc.compiler.report.figures import amount

WIDTH = 520  # of a picture, in its own units: a column of the wide page in CSS pixels
_MARGIN = 8
_ROW, _HILL = 68, 38  # height of a distribution's row, and of the hill in it
_APART = 76  # the least distance of two labels on an axis
_BINS = 160
_TAIL = 0.5  # per cent of the samples left out of a picture at either end


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Hill:
    """One subject's distribution: an outline above `base`, and where its median lies."""

    subject: str
    outline: str
    base: float
    median: float
    text: str


@dataclass(frozen=True)
class Distribution:
    """Latency distributions of one mode and batch, on one logarithmic axis."""

    mode: str
    batch: int
    hills: tuple[Hill, ...]
    ticks: tuple[Tick, ...]
    height: float


@dataclass(frozen=True)
class Line:
    """One subject's curve: its points in the picture, and its last value.

    `colour` counts the subjects of a stage, so that a subject keeps its colour across pictures.
    """

    subject: str
    colour: int
    points: tuple[tuple[float, float], ...]
    last: str


@dataclass(frozen=True)
class LineChart:
    """Curves by epoch; `unit` as in evidence ("fraction", "nats")."""

    title: str
    lines: tuple[Line, ...]
    xticks: tuple[Tick, ...]
    yticks: tuple[Tick, ...]
    height: float = 240
    left: float = 70


def distributions(rows: Iterable[LatencyRow]) -> tuple[Distribution, ...]:
    """One picture for each mode and batch that has samples, in the rows' order."""
    cases: dict[tuple[str, int], list[LatencyRow]] = {}
    for row in rows:
        if row.samples_ms:
            cases.setdefault((row.mode, row.batch), []).append(row)
    return tuple(_distribution(mode, batch, group) for (mode, batch), group in cases.items())


def _distribution(mode: str, batch: int, rows: Sequence[LatencyRow]) -> Distribution:
    kept = [np.percentile(row.samples_ms, [_TAIL, 50, 100 - _TAIL]) for row in rows]
    low, high = min(k[0] for k in kept) / 1.08, max(k[2] for k in kept) * 1.08
    edges = np.geomspace(low, high, _BINS + 1)

    def x(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return round(_MARGIN + share * (WIDTH - 2 * _MARGIN), 1)

    hills = []
    for index, (row, (_, median, _)) in enumerate(zip(rows, kept, strict=True)):
        base = float((index + 1) * _ROW)
        counts, _ = np.histogram(row.samples_ms, edges)
        outline = _outline(counts / max(counts.max(), 1), [x(edge) for edge in edges], base)
        hills.append(Hill(row.subject, outline, base, x(median), amount(median, "ms")))
    ticks = _spaced(Tick(x(value), _round_time(value)) for value in _log_values(low, high))
    return Distribution(mode, batch, tuple(hills), ticks, height=len(rows) * _ROW + 26)


def _outline(shares: Sequence[float], edges: Sequence[float], base: float) -> str:
    """The path of a histogram: up, along and down each bin that holds something."""
    path = [f"M{edges[0]} {base}"]
    for share, (left, right) in zip(shares, pairwise(edges), strict=True):
        top = round(base - share * _HILL, 1)
        path.append(f"L{left} {top}H{right}")
    return "".join(path) + f"V{base}Z"


def _log_values(low: float, high: float) -> list[float]:
    """Round values on a logarithmic axis, the roundest first."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**d for m in (1, 2, 5, 3, 7, 4, 1.5, 6, 8, 9) for d in decades]
    return [value for value in fine if low <= value <= high]


def _spaced(ticks: Iterable[Tick]) -> tuple[Tick, ...]:
    """Those ticks, first come, whose labels collide neither with another nor with the edge."""
    kept: list[Tick] = []
    for tick in ticks:
        clear = all(abs(tick.at - other.at) >= _APART for other in kept)
        if clear and _APART / 3 <= tick.at <= WIDTH - _APART / 3:
            kept.append(tick)
    return tuple(sorted(kept, key=lambda tick: tick.at))


def _round_time(milliseconds: float) -> str:
    return f"{milliseconds * 1e3:g} µs" if milliseconds < 1 else f"{milliseconds:g} ms"


def line_charts(curves: Iterable[Curve]) -> tuple[tuple[str, tuple[LineChart, ...]], ...]:
    """For each stage that trained: its accuracy picture and, where it has one, its loss picture."""
    stages: dict[str, list[Curve]] = {}
    for curve in curves:
        stages.setdefault(curve.stage, []).append(curve)
    return tuple((stage, _pictures(members)) for stage, members in stages.items())


def _pictures(curves: Sequence[Curve]) -> tuple[LineChart, ...]:
    charts = (
        _line_chart("accuracy", [(c.subject, c.accuracy) for c in curves], "fraction"),
        _line_chart("loss", [(c.subject, c.loss) for c in curves], "nats"),
    )
    return tuple(chart for chart in charts if chart is not None)


def _line_chart(
    title: str, series: Sequence[tuple[str, Sequence[float]]], unit: str
) -> LineChart | None:
    values = [value for _, points in series for value in points]
    if not values:
        return None
    epochs = max(len(points) for _, points in series)
    ticks = nice_ticks(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)
    left, top, bottom = LineChart.left, 10.0, LineChart.height - 30

    def x(epoch: int) -> float:
        return round(left + (epoch - 1) / max(epochs - 1, 1) * (WIDTH - left - 14), 1)

    def y(value: float) -> float:
        return round(bottom - (value - low) / (high - low) * (bottom - top), 1)

    lines = tuple(
        Line(
            subject,
            colour,
            tuple((x(epoch), y(value)) for epoch, value in enumerate(points, start=1)),
            amount(points[-1], unit),
        )
        for colour, (subject, points) in enumerate(series)
        if points
    )
    every = math.ceil(epochs / 8)
    xticks = tuple(Tick(x(epoch), str(epoch)) for epoch in range(1, epochs + 1, every))
    scale = 100 if unit == "fraction" else 1
    suffix = " %" if unit == "fraction" else ""
    yticks = tuple(Tick(y(value), f"{value * scale:.4g}{suffix}") for value in ticks)
    return LineChart(title, lines, xticks, yticks)


def nice_ticks(low: float, high: float) -> list[float]:
    """Three to six round values that cover `low` to `high`."""
    span = max(high - low, 1e-3 * max(abs(high), 1e-3))
    raw = span / 4
    decade = 10.0 ** math.floor(math.log10(raw))
    step = next(m * decade for m in (1, 2, 2.5, 5, 10) if m * decade >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    return [round(index * step, 12) for index in range(first, last + 1)]
