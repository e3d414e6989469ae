import numpy as np
import pytest
from check_pass import parse, random_samples
from nets import ONNXRUNTIME, TENSORRT, context, residual

from rtc.calibration.quantise import (
    activation_parameters,
    dequantise_weight,
    quantise_weight,
    weight_parameters,
)
from rtc.calibration.sensitivity import LayerProbe, layer_snr
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import DataError
from rtc.compiler.core.passes import TensorRange

WEIGHT = np.random.default_rng(2).standard_normal((6, 4)).astype(np.float32)
EYE = np.eye(6, dtype=np.float32)
FC = parse("g (float[N,6] x) => (float[N,4] y) { [fc] y = MatMul(x, w) }", w=WEIGHT)


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, TENSORRT])
def test_it_is_what_numpy_computes(scheme):
    split = random_samples(FC, 100).split
    seen = TensorRange(-3.0, 2.0, -3.0, 2.0, "minmax", 100)
    found = layer_snr(FC.onnx.proto, [LayerProbe("fc", 1, seen)], scheme, split)

    x = split.raw.astype(np.float64)
    act = activation_parameters(seen, scheme.activation)
    limits = np.iinfo(act.zero_point.dtype)
    integers = np.clip(np.rint(x / act.scale) + act.zero_point, limits.min, limits.max)
    x_q = (integers - float(act.zero_point)) * act.scale
    scales = weight_parameters(WEIGHT, 1)
    w_q = dequantise_weight(quantise_weight(WEIGHT, scales, 1), scales, 1)
    error = x_q @ w_q - x @ WEIGHT
    expected = 10 * np.log10(((x @ WEIGHT) ** 2).sum() / (error**2).sum())
    assert found == {"fc": pytest.approx(expected, abs=0.01)}


def test_every_layer_of_a_network_in_one_walk():
    unit = residual()
    ctx = context(unit, ONNXRUNTIME)
    probes = [
        LayerProbe(name, 0, ctx.statistics[x]) for name, x in (("conv1", "a"), ("conv2", "r1"))
    ]
    both = layer_snr(unit.onnx.proto, probes, ONNXRUNTIME, ctx.calibration())
    alone = layer_snr(unit.onnx.proto, probes[1:], ONNXRUNTIME, ctx.calibration())
    assert both["conv2"] == pytest.approx(alone["conv2"])
    assert all(30 < value < 60 for value in both.values())


def test_a_range_ten_times_too_wide_costs_twenty_decibels():
    unit = parse("g (float[N,6] x) => (float[N,6] y) { [fc] y = MatMul(x, w) }", w=EYE)
    split = random_samples(unit, 200).split

    def snr(limit):
        seen = TensorRange(-limit, limit, -limit, limit, "minmax", 200)
        return layer_snr(unit.onnx.proto, [LayerProbe("fc", 1, seen)], TENSORRT, split)["fc"]

    assert snr(5.0) - snr(50.0) == pytest.approx(20.0, abs=1.0)


def test_silent_layers_stay_finite():
    seen = TensorRange(0.0, 1.0, 0.0, 0.0, "minmax", 4)
    nothing = Split("some", np.zeros((4, 6), np.float32), None, Preprocess())
    assert layer_snr(FC.onnx.proto, [LayerProbe("fc", 1, seen)], TENSORRT, nothing) == {"fc": 120.0}


def test_a_layer_that_overflows_is_named():
    huge = parse(
        "g (float[N,6] x) => (float[N,4] y) { [fc] y = MatMul(x, w) }", w=WEIGHT * np.float32(1e38)
    )
    seen = TensorRange(-3.0, 3.0, -3.0, 3.0, "minmax", 100)
    with pytest.raises(DataError) as error:
        layer_snr(
            huge.onnx.proto, [LayerProbe("fc", 1, seen)], TENSORRT, random_samples(huge).split
        )
    assert error.value.where == "layer fc"
