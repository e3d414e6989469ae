"""Geometry of the pictures of precision: what each layer loses, and the fronts of what was tried.

A front joins what nothing beats, neither in time nor in agreement with the float model. Each search
has one of its own plans, against its float engine; another holds every candidate and every plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rtc.compiler.core.evidence import Estimated, Evidence, Measured, Pending
from rtc.compiler.report.charts import WIDTH, Tick, nice_ticks
from rtc.compiler.report.figures import significant
from rtc.compiler.report.model import CandidateRow, LayerRow, LossRow, SearchRow, TrialRow

_LEFT, _TOP, _RIGHT, _FOOT = 70.0, 14.0, 14.0, 48.0
_HEIGHT = 260.0
_ALL_AGREE = 99.0  # %: where the axis begins at the highest, for plans that are all as accurate


@dataclass(frozen=True)
class Dot:
    """A layer or a trial: where it is, between which heights its interval lies, and its words."""

    x: float
    y: float
    low: float
    high: float
    kind: str
    title: str


@dataclass(frozen=True)
class Plot:
    """Dots on two axes; `line` joins those that nothing beats."""

    title: str
    xlabel: str
    ylabel: str
    dots: tuple[Dot, ...]
    xticks: tuple[Tick, ...]
    yticks: tuple[Tick, ...]
    line: tuple[tuple[float, float], ...] = ()
    height: float = _HEIGHT
    left: float = _LEFT
    foot: float = _FOOT


@dataclass(frozen=True)
class SearchPictures:
    """The pictures of one search; None where there is nothing to draw."""

    search: SearchRow
    losses: Plot | None
    front: Plot | None


def search_pictures(
    searches: Sequence[SearchRow], layers: Sequence[LayerRow]
) -> tuple[SearchPictures, ...]:
    """A pair of pictures for each search; a layer's dot has its planned precision's colour."""
    planned = {row.name: row.planned for row in layers}
    return tuple(SearchPictures(each, _losses(each, planned), _front(each)) for each in searches)


def whole_front(candidates: Sequence[CandidateRow], searches: Sequence[SearchRow]) -> Plot | None:
    """Agreement against latency of all candidates, and of all plans that were tried for them.

    A plan's latency is that of its runtime's float candidate over how many times faster the plan
    was when it was tried: so all are of the one comparison that the candidates were measured in.
    """
    dots = [_candidate_mark(row) for row in candidates]
    dots += [_trial_mark(t, s, _float_ms(s, candidates)) for s in searches for t in s.trials]
    marks = [mark for mark in dots if mark is not None]
    if len(marks) < 2:
        return None
    xs = nice_ticks(0.0, max(mark.x for mark in marks))
    ys = nice_ticks(min(_ALL_AGREE, *(mark.y for mark in marks)), 100.0)
    x = _axis(xs[0], xs[-1], _LEFT, WIDTH - _RIGHT)
    y = _axis(ys[0], ys[-1], _HEIGHT - _FOOT, _TOP)
    placed = [
        replace(mark, x=x(mark.x), y=y(mark.y), low=y(mark.low), high=y(mark.high))
        for mark in marks
    ]
    measured = all(isinstance(row.latency, Measured) for row in candidates if row.latency)
    return Plot(
        title="Every candidate, and every plan that was tried",
        xlabel=f"latency of a batch, forward only, ms ({'measured' if measured else 'estimated'})",
        ylabel="agreement with the float model, %: of candidates on the test set, of plans on"
        " calibration samples",
        dots=tuple(sorted(placed, key=lambda dot: dot.kind != "tried")),  # candidates on top
        xticks=tuple(Tick(x(tick), f"{tick:g}") for tick in xs),
        yticks=tuple(Tick(y(tick), f"{tick:g}") for tick in ys),
        line=tuple((dot.x, dot.y) for dot in _unbeaten(placed, to_the_left=True)),
    )


def _candidate_mark(row: CandidateRow) -> Dot | None:
    """In milliseconds and per cent."""
    ms, agreement = _value(row.latency), row.agreement
    if ms is None or not isinstance(agreement, Measured):
        return None
    share = 100 * agreement.value
    low, high = (share if e is None else 100 * e for e in (agreement.low, agreement.high))
    kind = {"shipped": "best", "refused": "refused"}.get(row.state, "passed")
    title = f"{row.name}, {row.state}: {significant(ms)} ms, {share:.2f} % agree"
    return Dot(ms, share, low, high, kind, title)


def _trial_mark(trial: TrialRow, search: SearchRow, float_ms: float | None) -> Dot | None:
    speed = _speed(trial, search)
    if speed is None or float_ms is None:
        return None
    ms, (share, low, high) = float_ms / speed, trial.agreement
    title = f"{search.candidate}, {trial.name}: {significant(ms)} ms, {share:.2%} agree"
    return Dot(ms, 100 * share, 100 * low, 100 * high, "tried", title)


def _float_ms(search: SearchRow, candidates: Sequence[CandidateRow]) -> float | None:
    """The latency of the float candidate that a search's plans were timed beside."""
    backend = next((row.backend for row in candidates if row.name == search.candidate), "")
    known = {row.variant: _value(row.latency) for row in candidates if row.backend == backend}
    return known.get("half") or known.get("fp32")


def _value(evidence: Evidence | None) -> float | None:
    return evidence.value if isinstance(evidence, (Measured, Estimated)) else None


def _losses(search: SearchRow, planned: Mapping[str, str]) -> Plot | None:
    """Noise at the output when one layer alone is in INT8, in graph order."""
    rows = [row for row in search.losses if row.precision == "int8"]
    if not rows:
        return None
    ends = [end for row in rows for end in row.output_snr_db[1:]]
    low, high = (min(max(end, -20.0), 90.0) for end in (min(ends), max(ends)))
    ticks = nice_ticks(low, high)
    y = _axis(ticks[0], ticks[-1], _HEIGHT - _FOOT, _TOP)
    x = _axis(0, max(len(rows) - 1, 1), _LEFT + 10, WIDTH - _RIGHT - 10)
    dots = tuple(
        _loss_dot(row, x(index), y, planned.get(row.layer, "")) for index, row in enumerate(rows)
    )
    every = max(1, len(rows) // 8)
    return Plot(
        title=f"{search.candidate}: what each layer alone loses in INT8",
        xlabel="layer, in graph order",
        ylabel="signal to noise at the output, dB: the lower, the more it loses",
        dots=dots,
        xticks=tuple(Tick(x(index), str(index + 1)) for index in range(0, len(rows), every)),
        yticks=tuple(Tick(y(tick), f"{tick:g}") for tick in ticks),
    )


def _loss_dot(row: LossRow, x: float, y: Callable[[float], float], planned: str) -> Dot:
    value, low, high = row.output_snr_db
    title = f"{row.layer}: {value:.1f} dB ({low:.1f} – {high:.1f}), planned {planned or '–'}"
    return Dot(x, y(value), y(low), y(high), planned, title)


def _front(search: SearchRow) -> Plot | None:
    """Agreement against speed of every plan that was tried."""
    speeds = [_speed(trial, search) for trial in search.trials]
    known = [(t, s) for t, s in zip(search.trials, speeds, strict=True) if s is not None]
    if len(known) < 2:
        return None
    xs = nice_ticks(*_span([speed for _, speed in known]))
    least = min(trial.agreement[0] for trial, _ in known)
    ys = nice_ticks(min(100 * least, _ALL_AGREE), 100.0)
    x = _axis(xs[0], xs[-1], _LEFT, WIDTH - _RIGHT)
    y = _axis(ys[0], ys[-1], _HEIGHT - _FOOT, _TOP)
    dots = tuple(
        Dot(
            x=x(speed),
            y=y(100 * trial.agreement[0]),
            low=y(100 * trial.agreement[1]),
            high=y(100 * trial.agreement[2]),
            kind=trial.state,
            title=f"{trial.name}: {significant(speed)}× float, {trial.agreement[0]:.2%} agree",
        )
        for trial, speed in known
    )
    kind = "measured" if search.trials[0].over_float else "estimated"
    return Plot(
        title=f"{search.candidate}: plans that were tried",
        xlabel=f"times the speed of the float engine ({kind})",
        ylabel="agreement with the float model, %",
        dots=dots,
        xticks=tuple(Tick(x(tick), f"{tick:g}×") for tick in xs),
        yticks=tuple(Tick(y(tick), f"{tick:g}") for tick in ys),
        line=tuple((dot.x, dot.y) for dot in _unbeaten(dots)),
    )


def _speed(trial: TrialRow, search: SearchRow) -> float | None:
    """Times the speed of the float engine: measured in turns with it, or of two estimates."""
    if trial.over_float is not None:
        return trial.over_float[0]
    own, others = trial.latency, search.trials[0].latency
    if own is None or others is None or isinstance(own, Pending) or isinstance(others, Pending):
        return None
    return others.value / own.value


def _unbeaten(dots: Sequence[Dot], *, to_the_left: bool = False) -> list[Dot]:
    """The Pareto front, from the fastest: up and to the right, or left, is better.

    y grows downwards.
    """
    front: list[Dot] = []
    for dot in sorted(dots, key=lambda dot: (dot.x if to_the_left else -dot.x, dot.y)):
        if not front or dot.y < front[-1].y:
            front.append(dot)
    return front


def _span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _axis(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Where a value lies between the ends of an axis; what is outside lies on its end."""

    def at(value: float) -> float:
        inside = min(max(value, low), high)
        return round(start + (inside - low) / (high - low) * (end - start), 1)

    return at
