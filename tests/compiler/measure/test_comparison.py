"""Times that are given, and the rows and notes that come of them."""

from __future__ import annotations

import numpy as np
import pytest

from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.measure.comparison import DRAWN, Case, Comparison, Series

CASE = Case(LatencyMode.FORWARD, 8)


def steady(milliseconds: float, count: int = 150) -> Series:
    return Series(first=9.0, rounds=[np.full(count, milliseconds) for _ in range(2)])


def test_a_row_gives_the_median_its_rate_and_the_speedup() -> None:
    compared = Comparison({CASE: {"float": steady(4.0), "int8": steady(2.0)}})
    base, row = compared.rows("float", "here")
    assert (row.subject, row.mode, row.batch) == ("int8", LatencyMode.FORWARD, 8)
    assert row.evidence == compared.measured("int8", CASE, "here")
    assert (row.evidence.value, row.evidence.samples, row.evidence.where) == (2.0, 300, "here")
    assert row.fps == pytest.approx(4000.0)
    assert (row.speedup, row.speedup_interval) == (2.0, (2.0, 2.0))
    assert base.speedup == 1.0
    assert row.statistics["first"] == 9.0
    assert len(row.samples_ms) == DRAWN


def test_without_the_baseline_there_is_no_speedup() -> None:
    (row,) = Comparison({CASE: {"int8": steady(2.0)}}).rows("float", "here")
    assert row.speedup is None
    assert row.speedup_interval is None


def test_many_steady_timings_need_no_note() -> None:
    assert Comparison({CASE: {"int8": steady(2.0)}}).notes() == ()


def test_few_and_unsteady_timings_are_noted_with_the_worst() -> None:
    wild = Series(first=1.0, rounds=[np.tile([1.0, 3.0], 100)])
    compared = Comparison({CASE: {"few": steady(2.0, 20), "fewer": steady(2.0, 5), "wild": wild}})
    few, wide = compared.notes()
    assert few.startswith("Fewer than 100 timings in 2 of 3 series; the fewest are 10 (fewer, ")
    assert wide.startswith("Unsteady timing in 1 of 3 series")
    assert "at most 50 % (wild, " in wide
