"""What a bundle knows of each layer's precision, in one row."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import nearest
from rtc.compiler.core.results import Band, LayerRow, LossRow, Report, SearchRow

INT8 = "int8"


@dataclass(frozen=True)
class LayerView:
    """One layer: as planned, as built, and what the search found of it.

    Attributes:
        row: planned against built, with the reason.
        losses: what changes at the output when it alone is in a precision, by precision.
        times_us: microseconds per batch by precision or policy, as last seen.
    """

    row: LayerRow
    losses: Mapping[str, LossRow] = field(default_factory=dict)
    times_us: Mapping[str, float] = field(default_factory=dict)

    @property
    def gain_us(self) -> float | None:
        """What INT8 saves here, neighbours apart; None where it was not seen both ways."""
        others = [time for how, time in self.times_us.items() if how != INT8]
        return min(others) - self.times_us[INT8] if INT8 in self.times_us and others else None

    @property
    def output_snr_db(self) -> float | None:
        """What INT8 in this layer alone leaves of the output, where that is known."""
        return self.losses[INT8].output_snr_db[0] if INT8 in self.losses else None


SORTS = {
    "graph": None,
    "name": lambda view: view.row.name,
    "snr": lambda view: _last(view.output_snr_db),
    "gain": lambda view: -_last(view.gain_us, -1e9),
    "time": lambda view: -max(view.times_us.values(), default=-1.0),
}
"""Orders of layers: as in the graph, the most sensitive first, the largest gain or time first."""


def views(report: Report, candidate: str = "") -> tuple[LayerView, ...]:
    """A view of each layer of a candidate in graph order; of the shipped one, if none is named.

    A float candidate has no figure of what INT8 would cost a layer: those of one that has, on the
    same runtime, stand in.

    Raises:
        RecipeError: no such candidate was built.
    """
    name = candidate or report.shipped
    rows = _layers_of(report)
    if name not in rows:
        raise RecipeError(
            "no such candidate was built",
            where="--candidate",
            seen=repr(name),
            fix=nearest(name, rows),
            id="unknown-candidate",
        )
    runtime = _runtime(report, name)
    own_snr = {
        row.name: row.snr_db
        for other in (*rows, name)  # its own figures go last, and count
        if _runtime(report, other) == runtime
        for row in rows[other]
        if row.snr_db is not None
    }
    search = search_of(report, name)
    losses: dict[str, dict[str, LossRow]] = {}
    for row in search.losses if search else ():
        losses.setdefault(row.layer, {})[row.precision] = row
    times = search.times_us if search else {}
    return tuple(
        LayerView(
            replace(row, snr_db=own_snr.get(row.name)),
            losses.get(row.name, {}),
            times.get(row.name, {}),
        )
        for row in rows[name]
    )


def candidates_of(report: Report) -> tuple[str, ...]:
    """The candidates that were built, the shipped one first."""
    return tuple(_layers_of(report))


def _layers_of(report: Report) -> dict[str, tuple[LayerRow, ...]]:
    return {report.shipped: report.layers} | {o.candidate: o.layers for o in report.others}


def search_of(report: Report, candidate: str = "") -> SearchRow | None:
    """The search on a candidate's runtime (the shipped one's); None where there was none on it."""
    runtime = _runtime(report, candidate or report.shipped)
    on_it = (row for row in report.searches if _runtime(report, row.candidate) == runtime)
    return next(on_it, None)


def _runtime(report: Report, candidate: str) -> str:
    """The runtime of a candidate; one that the report has no row of is on a runtime of its own."""
    rows = {row.name: row.backend for row in report.candidates}
    return rows.get(candidate, candidate)


def arranged(
    found: Iterable[LayerView], *, sort: str, only: Sequence[str], precision: str
) -> tuple[LayerView, ...]:
    """The layers that match any of the globs `only` and a planned `precision`, sorted.

    Raises:
        RecipeError: a pattern that matches no layer, or no such order.
    """
    rows = tuple(found)
    names = [view.row.name for view in rows]
    for pattern in only:
        if not any(_matches(name, pattern) for name in names):
            raise unknown_layer(pattern, names)
    if sort not in SORTS:
        raise RecipeError("no such order of layers", seen=repr(sort), fix=nearest(sort, SORTS))
    kept = [
        view
        for view in rows
        if (not only or any(_matches(view.row.name, pattern) for pattern in only))
        and precision in ("", view.row.planned)
    ]
    key = SORTS[sort]
    return tuple(sorted(kept, key=key) if key else kept)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def unknown_layer(name: str, names: Sequence[str]) -> RecipeError:
    """The error of a name or pattern that no layer has."""
    return RecipeError(
        "no layer matches", seen=repr(name), fix=nearest(name, names), id="unknown-layer"
    )


def band_words(band: Band, scale: float = 1.0, digits: int = 1) -> str:
    """An estimate with its interval: "41.2 (40.1 – 42.6)"."""
    value, low, high = (f"{edge * scale:.{digits}f}" for edge in band)
    return value if low == high else f"{value} ({low} – {high})"


def _last(value: float | None, otherwise: float = 1e9) -> float:
    return otherwise if value is None else value
