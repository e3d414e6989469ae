"""Against figures computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rtc.calibration.decibels import LIMIT_DB
from rtc.calibration.sensitivity.tally import Reference, Tally, snr_interval
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.outputs import OutputKind

LOGITS = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.5]], np.float32)
LABELS = np.array([0, 2])


@pytest.fixture
def reference() -> Reference:
    return Reference(LOGITS, LABELS, OutputKind.LOGITS)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 2)])
def test_what_is_no_classifier_is_refused(shape) -> None:
    with pytest.raises(ModelError, match="classifier") as refused:
        Reference(np.zeros(shape, np.float32), None, OutputKind.LOGITS)
    assert refused.value.id == "not-a-classifier"


def test_a_reference_knows_the_margin_to_the_runner_up(reference) -> None:
    assert reference.top1.tolist() == [0, 1]
    assert reference.runner_up.tolist() == [1, 2]
    assert reference.margin.tolist() == [2.0, 0.5]
    assert reference.power.tolist() == [10.0, 6.25]


def test_of_equal_logits_the_runner_up_is_not_the_top_class() -> None:
    tied = Reference(np.ones((1, 3), np.float32), None, OutputKind.LOGITS)
    assert tied.runner_up.tolist() != tied.top1.tolist()
    assert tied.margin.tolist() == [0.0]


def test_what_is_computed_alike_has_no_noise_and_no_divergence(reference) -> None:
    tally = Tally()
    tally.measured(reference, LOGITS)
    assert tally.noise[0].tolist() == [0.0, 0.0]
    assert tally.kl[0].tolist() == [0.0, 0.0]
    assert tally.same[0].tolist() == [True, True]
    assert tally.right[0].tolist() == [True, False]


def test_a_sample_that_is_not_finite_agrees_with_nothing(reference) -> None:
    tally = Tally()
    tally.measured(reference, np.array([[np.nan, 1, 0], [0, 2, 1]], np.float32))
    assert tally.noise[0].tolist() == [math.inf, 0.25]
    assert tally.kl[0][0] == 100.0
    assert tally.same[0].tolist() == [False, True]


def test_a_margin_that_is_used_up_goes_to_the_runner_up(reference) -> None:
    tally, still = Tally(), np.zeros(2, np.float32)
    tally.predicted(reference, still, still, np.array([-1.9, -0.6], np.float32))
    assert tally.same[0].tolist() == [True, False]
    assert tally.right[0].tolist() == [True, True]


def test_noise_at_the_layer_that_is_not_finite_is_infinite() -> None:
    tally = Tally()
    tally.at_layer(np.array([1.0, 2.0]), np.array([0.5, np.nan]))
    assert (tally.layer_signal, tally.layer_noise) == (3.0, math.inf)


def test_a_ratio_is_that_of_the_sums_inside_its_interval() -> None:
    found = snr_interval(np.array([60.0, 40.0, 50.0]), np.array([1.0, 0.2, 0.3]))
    assert found.value == pytest.approx(20.0)
    assert found.low < 20.0 < found.high
    same = snr_interval(np.array([50.0, 50.0]), np.array([0.5, 0.5]))
    assert (same.low, same.high) == pytest.approx((20.0, 20.0))


def test_one_sample_bounds_nothing_and_no_noise_is_the_limit() -> None:
    one = snr_interval(np.array([10.0]), np.array([1.0]))
    assert (one.low, one.high) == (-LIMIT_DB, LIMIT_DB)
    clean = snr_interval(np.array([10.0, 10.0]), np.zeros(2))
    assert (clean.low, clean.value, clean.high) == (LIMIT_DB, LIMIT_DB, LIMIT_DB)
