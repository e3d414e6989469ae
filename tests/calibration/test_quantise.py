import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc.calibration.quantise import (
    activation_parameters,
    dequantise_weight,
    least_weight_scale,
    quantise_weight,
    weight_parameters,
)
from rtc.compiler.core.pairs import LIMIT, largest, partners
from rtc.compiler.core.passes import TensorRange


def seen(low, high):
    return TensorRange(low, high, low, high, "minmax", 1)


def test_uint8_is_affine_and_covers_the_range():
    parameters = activation_parameters(seen(-1.0, 4.1), "uint8")
    assert parameters.scale == pytest.approx(5.1 / 255)
    assert parameters.zero_point == 50
    assert parameters.zero_point.dtype == np.uint8


def test_int8_is_symmetric():
    parameters = activation_parameters(seen(-2.54, 1.0), "int8")
    assert parameters.scale == pytest.approx(0.02)
    assert parameters.zero_point == 0
    assert parameters.zero_point.dtype == np.int8


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("value", [(0.0, 0.0), (0.0, 1e-45), (3.0, 3.0), (-3.0, -2.0)])
def test_scales_are_positive_and_zero_is_exact(kind, value):
    parameters = activation_parameters(seen(*value), kind)
    assert parameters.scale > 0
    assert parameters.scale.dtype == np.float32
    limits = np.iinfo(parameters.zero_point.dtype)
    assert limits.min <= parameters.zero_point <= limits.max


@given(low=st.floats(-1e6, 0, width=32), high=st.floats(0, 1e6, width=32), at=st.floats(0, 1))
def test_rounding_is_off_by_half_a_step_at_most(low, high, at):
    parameters = activation_parameters(seen(low, high), "uint8")
    scale, zero = float(parameters.scale), int(parameters.zero_point)
    x = low + at * (high - low)
    restored = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
    assert abs(restored - x) <= scale * 1.01  # half a step, and half of the zero point's rounding


def test_weights_per_channel():
    weight = np.array([[1.27, -0.5], [0.0127, 0.0]], np.float32)
    parameters = weight_parameters(weight, 0)
    np.testing.assert_allclose(parameters.scale, [0.01, 0.0001], rtol=1e-6)
    assert quantise_weight(weight, parameters, 0).tolist() == [[127, -50], [127, 0]]
    restored = dequantise_weight(quantise_weight(weight, parameters, 0), parameters, 0)
    np.testing.assert_allclose(restored, weight, atol=0.005)


def test_weights_per_tensor():
    weight = np.array([[1.27, -0.5], [0.02, 0.0]], np.float32)
    parameters = weight_parameters(weight, 0, per_channel=False)
    assert parameters.scale.shape == ()
    assert quantise_weight(weight, parameters, 0).tolist() == [[127, -50], [2, 0]]


def test_a_dead_channel_gets_a_scale_of_its_neighbours():
    weight = np.array([[0.0, 0.0], [1.27, 0.1]], np.float32)
    np.testing.assert_allclose(weight_parameters(weight, 0).scale, [0.01, 0.01])
    assert weight_parameters(np.zeros((2, 2), np.float32), 0).scale.tolist() == [1.0, 1.0]


def test_a_tiny_channel_leaves_room_for_its_bias():
    weight = np.array([[1e-12, 0.0], [1.27, 0.1]], np.float32)
    bias, input_scale = np.array([0.5, 0.5], np.float32), np.float32(0.02)
    least = least_weight_scale(bias, input_scale)
    parameters = weight_parameters(weight, 0, at_least=least)
    assert np.all(np.abs(bias / (parameters.scale * input_scale)) < 2**31)
    assert parameters.scale[1] == pytest.approx(0.01)


def test_weights_are_clipped_where_the_squared_error_is_least():
    random = np.random.default_rng(0)
    weight = random.laplace(size=(4, 20000)).astype(np.float32)
    weight[3] = random.uniform(-1, 1, 20000)  # nothing to gain from clipping

    def error(how):
        scales = weight_parameters(weight, 0, how=how)
        restored = dequantise_weight(quantise_weight(weight, scales, 0), scales, 0)
        return np.square(restored - weight).mean(axis=1)

    assert (error("mse")[:3] < 0.95 * error("minmax")[:3]).all()
    assert (error("mse") <= error("minmax")).all()
    dead = weight_parameters(np.zeros((2, 3), np.float32), 0, how="mse")
    assert dead.scale.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("how", ["minmax", "mse"])
@pytest.mark.parametrize(("shape", "axis"), [((8, 6, 3, 3), 0), ((8, 3, 3, 3), 0), ((7, 8), 1)])
@pytest.mark.parametrize("per_channel", [True, False])
def test_neighbouring_weights_leave_room_for_16_bits(shape, axis, how, per_channel):
    weight = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    kept = {"per_channel": per_channel, "how": how}
    for paired in (False, True):
        scales = weight_parameters(weight, axis, paired=paired, **kept)
        integers = np.moveaxis(quantise_weight(weight, scales, axis), axis, 0)
        rows = integers.reshape(len(integers), -1).astype(int)
        most = largest(rows, partners(integers.shape[1:]))
        assert bool(most.max() <= LIMIT) is paired
        if paired and how == "minmax" and per_channel:
            assert (most >= LIMIT - 1).all()  # and no more room than that


def test_pairs_cost_less_than_half_the_range_does():
    weight = np.random.default_rng(2).standard_normal((32, 32, 3, 3)).astype(np.float32)
    paired = weight_parameters(weight, 0, paired=True).scale
    plain = weight_parameters(weight, 0).scale
    assert 1.0 < np.median(paired / plain) < 1.5  # 2 would be 7 bits
