from __future__ import annotations

import numpy as np
import pytest

from rtc.compiler.report.charts import nice_ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 100, [0, 25, 50, 75, 100]),
        (-3, 5, [-4, -2, 0, 2, 4, 6]),
    ],
)
def test_ticks_are_round_and_cover_the_range(low, high, ticks) -> None:
    assert nice_ticks(low, high) == ticks


@pytest.mark.parametrize("value", [0.0, 0.5, -7.0, 1e6])
def test_one_value_has_ticks_on_both_sides(value) -> None:
    ticks = nice_ticks(value, value)
    assert len(ticks) >= 2
    assert ticks[0] <= value <= ticks[-1]
    assert np.all(np.diff(ticks) > 0)
