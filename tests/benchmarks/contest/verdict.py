"""What rtc is to reach against its peers, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from contest.entries import RTC
from contest.models import Entrant
from contest.running import Row

FASTER = 8.0
"""How many times faster than torch eager to be, in the geometric mean over the models."""


@dataclass(frozen=True)
class Verdict:
    """One target, and what was found."""

    target: str
    found: str
    holds: bool


def verdicts(entrants: Sequence[Entrant], rows: Sequence[Row]) -> Iterator[Verdict]:
    """Every target that the rows can tell something of."""
    own = {row.model: row for row in rows if row.peer == RTC}
    for each in entrants:
        row = own.get(each.name)
        if row is None:
            continue
        if row.failure:
            yield Verdict(f"{each.name}: rtc compiles it", row.failure, holds=False)
            continue
        yield from _accuracy(each, row)
        yield from _search(each, row)
        yield from _speed(each, row)
        if each.drop is not None:
            yield _unbeaten(each, [other for other in rows if other.model == each.name])
    speedups = [row.over_eager.value for row in own.values() if row.over_eager is not None]
    if speedups:
        mean = math.exp(sum(map(math.log, speedups)) / len(speedups))
        target = f"speedup over torch eager ≥ {FASTER:g}×, geometric mean of {len(speedups)}"
        yield Verdict(target, f"{mean:.2f}×", mean >= FASTER)


def _accuracy(each: Entrant, row: Row) -> Iterator[Verdict]:
    if each.drop is None or row.drop is None:
        return
    drop = row.drop
    shown = f"{100 * drop.value:.2f} ({100 * drop.low:.2f} to {100 * drop.high:.2f}) points"
    target = f"{each.name}: drop of top-1 ≤ {100 * each.drop:g} point, or zero in its interval"
    yield Verdict(target, shown, drop.value <= each.drop or drop.low <= 0)


def _search(each: Entrant, row: Row) -> Iterator[Verdict]:
    if each.search_s is not None and row.search_s is not None:
        target = f"{each.name}: search within {each.search_s:g} s"
        yield Verdict(target, f"{row.search_s:.0f} s", row.search_s <= each.search_s)


def _speed(each: Entrant, row: Row) -> Iterator[Verdict]:
    if each.speedup is not None and row.over_eager is not None:
        target = f"{each.name}: speedup over torch eager ≥ {each.speedup:g}×"
        found = row.over_eager
        shown = f"{found.value:.2f}× ({found.low:.2f} to {found.high:.2f})"
        yield Verdict(target, shown, found.value >= each.speedup)


def _unbeaten(each: Entrant, rows: Sequence[Row]) -> Verdict:
    """A peer counts as more accurate by one sample, as faster only with its whole interval."""
    told, beaten = [], False
    for row in rows:
        if row.peer == RTC or row.ahead is None or row.faster is None:
            continue
        if row.ahead.value > 0 and row.faster.value > 1:
            beyond = row.faster.low > 1
            beaten |= beyond
            lead = f"{row.peer}: {100 * row.ahead.value:+.2f} points, {row.faster.value:.2f}×"
            told.append(lead + ("" if beyond else " (not surely faster)"))
    target = f"{each.name}: no peer both more accurate and faster"
    return Verdict(target, "; ".join(told) or "none", holds=not beaten)
