from __future__ import annotations

import math

import pytest

from rtc.calibration.decibels import LIMIT_DB, decibels


@pytest.mark.parametrize(
    ("signal", "noise", "wanted"),
    [
        (100.0, 1.0, 20.0),
        (1.0, 2.0, -10 * math.log10(2)),
        (0.0, 1.0, -LIMIT_DB),
        (1.0, 0.0, LIMIT_DB),
        (0.0, 0.0, LIMIT_DB),
        (1.0, math.inf, -LIMIT_DB),
        (1.0, math.nan, -LIMIT_DB),
        (1.0, 1e-300, LIMIT_DB),
        (1e-300, 1.0, -LIMIT_DB),
    ],
)
def test_ratios_of_powers(signal: float, noise: float, wanted: float) -> None:
    assert decibels(signal, noise) == pytest.approx(wanted)
