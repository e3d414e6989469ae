from __future__ import annotations

import numpy as np
import pytest

from rtc.compiler.core.errors import DataError
from rtc.compiler.diagnose.metric import Metric
from rtc.compiler.diagnose.quantity import Quantity

FLOATS = 2 * np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 25]  # logits: the rows add up to 2
LABELS = FLOATS.argmax(axis=1)


def spoilt(rows: slice, value: float) -> np.ndarray:
    logits = FLOATS.copy()
    logits[rows] = value
    return logits


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_lose(value) -> None:
    logits = spoilt(slice(0, 10), value)
    agreement = Metric(Quantity.AGREEMENT, 0.95).measure(FLOATS, logits, None, "here")
    assert agreement.value == 0.9
    assert agreement.low < 0.9 < agreement.high
    drop = Metric(Quantity.TOP1, 0.05).measure(FLOATS, logits, LABELS, "here")
    assert drop.value == pytest.approx(0.1)
    assert Metric(Quantity.SNR, 10.0).measure(FLOATS, logits, None, "here").value == -120.0


def test_output_snr_in_decibels() -> None:
    found = Metric(Quantity.SNR, 20.0).measure(FLOATS, FLOATS * np.float32(0.9), None, "here")
    assert found.value == pytest.approx(20.0, abs=1e-4)
    assert found.unit == "dB"


@pytest.mark.parametrize(
    ("quantity", "limit", "good", "bad"),
    [
        (Quantity.AGREEMENT, 0.9, 0.9, 0.89),
        (Quantity.TOP1, 0.1, 0.1, 0.11),
        (Quantity.SNR, 20.0, 20.0, 19.9),
    ],
)
def test_which_side_of_the_limit_holds(quantity, limit, good, bad) -> None:
    metric = Metric(quantity, limit)
    assert metric.holds(good)
    assert not metric.holds(bad)


def test_a_few_samples_do_not_make_a_failure_sure() -> None:
    metric = Metric(Quantity.AGREEMENT, 0.95)
    few = metric.measure(FLOATS[:10], spoilt(slice(0, 1), np.nan)[:10], None, "here")
    many = metric.measure(FLOATS, spoilt(slice(0, 50), np.nan), None, "here")
    assert [metric.holds(each.value) for each in (few, many)] == [False, False]
    assert [metric.surely_fails(each) for each in (few, many)] == [False, True]


def test_a_drop_of_top1_needs_labels() -> None:
    with pytest.raises(DataError, match="needs labels"):
        Metric(Quantity.TOP1, 0.1).measure(FLOATS, FLOATS, None, "here")


def test_a_drop_of_top1_counts_from_the_model_that_came_in() -> None:
    """A pass made the float model wrong on a tenth; the candidate is as wrong as that."""
    floats = np.roll(FLOATS[:10], 1, axis=1)
    floats = np.concatenate([floats, FLOATS[10:]])
    drop = Metric(Quantity.TOP1, 0.05).measure(floats, floats, LABELS, "here", incoming=FLOATS)
    assert drop.value == pytest.approx(0.1)
    agreement = Metric(Quantity.AGREEMENT, 0.95)
    assert agreement.measure(floats, floats, LABELS, "here", incoming=FLOATS).value == 1.0
