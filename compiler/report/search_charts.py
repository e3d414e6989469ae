"""Geometry of the pictures of precision: what each layer loses, and the fronts of what was tried.

A front joins what nothing beats, neither in time nor in agreement with the float model. Each search
has one of its own plans, against its float engine; another holds every candidate and every plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rtc.compiler.core.evidence import Estimated, Evidence, Measured, Pending
from rtc.compiler.core.results import CandidateRow, LayerRow, LossRow, SearchRow, TrialRow
from rtc.compiler.core.verdicts import CandidateState, TrialState
from rtc.compiler.report.charts import WIDTH, Tick, nice_ticks
from rtc.compiler.report.figures import significant

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
    return tuple(
        SearchPictures(search, _losses(search, planned), _front(search)) for search in searches
    )


def whole_front(candidates: Sequence[CandidateRow], searches: Sequence[SearchRow]) -> Plot | None:
    """Agreement against latency of all candidates, and of all plans that were tried for them.

    The front is that of the candidates, which were measured together. A plan's latency follows from
    that of its search's candidate and from how fast both were beside the same float engine.
    """
    marks = [mark for row in candidates if (mark := _candidate_mark(row))]
    front = [(mark.x, -mark.y) for mark in marks]
    if len(marks) < 2:
        return None
    marks = [m for s in searches for m in _trial_marks(s, candidates)] + marks  # these on top
    xs = nice_ticks(0.0, max(mark.x for mark in marks))
    ys = nice_ticks(min(_ALL_AGREE, *(mark.y for mark in marks)), 100.0)
    x = _axis(xs[0], xs[-1], _LEFT, WIDTH - _RIGHT)
    y = _axis(ys[0], ys[-1], _HEIGHT - _FOOT, _TOP)
    measured = all(isinstance(row.latency, Measured) for row in candidates if row.latency)
    return Plot(
        title="Every candidate, and every plan that was tried",
        xlabel=f"latency of a batch, forward only, ms ({'measured' if measured else 'estimated'};"
        " plans': derived)",
        ylabel="agreement with the float model, %: of candidates on the test set, of plans on"
        " calibration samples",
        dots=tuple(
            replace(mark, x=x(mark.x), y=y(mark.y), low=y(mark.low), high=y(mark.high))
            for mark in marks
        ),
        xticks=tuple(Tick(x(tick), f"{tick:g}") for tick in xs),
        yticks=tuple(Tick(y(tick), f"{tick:g}") for tick in ys),
        line=tuple((x(ms), y(-lost)) for ms, lost in _least(front)),
    )


_KINDS = {CandidateState.SHIPPED: TrialState.BEST, CandidateState.REFUSED: TrialState.REFUSED}
"""A candidate's colour is that of the trials that came to the same."""


def _candidate_mark(row: CandidateRow) -> Dot | None:
    """In milliseconds and per cent."""
    ms, agreement = _value(row.latency), row.agreement
    if ms is None or not isinstance(agreement, Measured):
        return None
    share = 100 * agreement.value
    low, high = (share if e is None else 100 * e for e in (agreement.low, agreement.high))
    kind = _KINDS.get(row.state, TrialState.PASSED)
    title = f"{row.name}, {row.state}: {significant(ms)} ms, {share:.2f} % agree"
    return Dot(ms, share, low, high, str(kind), title)


def _trial_marks(search: SearchRow, candidates: Sequence[CandidateRow]) -> Iterator[Dot]:
    """Nothing where the search had no time to choose: its candidate is then none of its plans."""
    built = next((row for row in candidates if row.name == search.candidate), None)
    best = next((trial for trial in search.trials if trial.state is TrialState.BEST), None)
    ms = _value(built.latency) if built else None
    most = _speed(best, search) if best and len(search.trials) > 1 else None
    if ms is None or most is None:
        return
    for trial in search.trials:
        speed = _speed(trial, search)
        if speed is not None:
            own, (share, low, high) = ms * most / speed, trial.agreement
            kind = "tried refused" if trial.state is TrialState.REFUSED else "tried"
            title = f"{search.candidate}, {trial.name}: {significant(own)} ms, {share:.2%} agree"
            yield Dot(own, 100 * share, 100 * low, 100 * high, kind, title)


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
            kind=str(trial.state),
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
        line=tuple((-x, y) for x, y in _least((-dot.x, dot.y) for dot in dots)),
    )


def _speed(trial: TrialRow, search: SearchRow) -> float | None:
    """Times the speed of the float engine: measured in turns with it, or of two estimates."""
    if trial.over_float is not None:
        return trial.over_float[0]
    own, others = trial.latency, search.trials[0].latency
    if own is None or others is None or isinstance(own, Pending) or isinstance(others, Pending):
        return None
    return others.value / own.value


def _least(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front: what no other is below in both coordinates, by the first of them."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _axis(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Where a value lies between the ends of an axis; what is outside lies on its end."""

    def at(value: float) -> float:
        inside = min(max(value, low), high)
        return round(start + (inside - low) / (high - low) * (end - start), 1)

    return at
