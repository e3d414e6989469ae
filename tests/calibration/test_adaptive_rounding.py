import itertools

import numpy as np
import pytest

from rtc.calibration.adaptive_rounding import adaptive_rounding, error_power
from rtc.compiler.core.pairs import largest, partners

RANDOM = np.random.default_rng(3)


def problem(out, inputs):
    features = RANDOM.standard_normal((inputs, 2)) @ RANDOM.standard_normal((2, 400))
    features += 0.3 * RANDOM.standard_normal((inputs, 400))
    gram = features @ features.T / 400
    weights = RANDOM.standard_normal((out, inputs))
    return weights, np.abs(weights).max(1, keepdims=True) / 127, gram


def test_no_rounding_of_a_small_layer_is_far_better():
    weights, scale, gram = problem(1, 8)
    exact = weights / scale
    choices = itertools.product(*zip(np.floor(exact[0]), np.ceil(exact[0]), strict=True))
    best = min(error_power(exact - np.array([q]), gram) for q in choices)
    found = error_power(exact - adaptive_rounding(weights, scale, gram), gram)
    nearest = error_power(exact - np.rint(exact), gram)
    assert best <= found < nearest
    assert found - best < 0.5 * (nearest - best)


@pytest.mark.parametrize("inputs", [3, 30, 100])
def test_it_is_better_than_nearest_and_stays_beside_the_weight(inputs):
    weights, scale, gram = problem(5, inputs)
    values = adaptive_rounding(weights, scale, gram)
    assert (np.abs(values - weights / scale) <= 1).all()
    nearest = np.rint(weights / scale)
    largest = np.abs(weights).argmax(1)
    np.testing.assert_array_equal(values[range(5), largest], nearest[range(5), largest])
    assert error_power(weights - values * scale, gram) <= error_power(
        weights - nearest * scale, gram
    )


def test_without_correlation_nearest_is_best():
    weights, scale, _ = problem(4, 20)
    values = adaptive_rounding(weights, scale, np.diag(RANDOM.uniform(0.1, 9, 20)))
    np.testing.assert_array_equal(values, np.rint(weights / scale))


def test_a_layer_that_reads_zeros_is_rounded_to_nearest():
    weights, scale, _ = problem(4, 20)
    values = adaptive_rounding(weights, scale, np.zeros((20, 20)))
    np.testing.assert_array_equal(values, np.rint(weights / scale))


def test_error_power_is_the_mean_square_of_the_outputs():
    x = RANDOM.standard_normal((6, 50))
    errors = RANDOM.standard_normal((3, 6))
    assert error_power(errors, x @ x.T / 50) == pytest.approx(np.square(errors @ x).sum() / 50)


@pytest.mark.parametrize("shape", [(10, 9), (3, 9)])
def test_sums_of_neighbours_stay_within_the_one_that_the_scale_was_taken_from(shape):
    pairs = partners(shape)
    weights, _, gram = problem(6, int(np.prod(shape)))
    scale = largest(weights, pairs)[:, None] / 127
    values = adaptive_rounding(weights, scale, gram, pairs)
    assert (largest(values, pairs) == 127).all()
    nearest = np.rint(weights / scale)
    assert error_power(weights - values * scale, gram) < error_power(
        weights - nearest * scale, gram
    )
