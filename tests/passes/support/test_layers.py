"""What is known of a layer: which axis is which, whatever sizes agree."""

from dataclasses import replace

import numpy as np
import pytest
from check_pass import check_pass, parse
from nets import ONNXRUNTIME, planned, quantised

from rtc.compiler.core.precision import Variant
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.passes.support.layers import dead_channels, weighted_layers
from rtc.passes.support.onnx_graph import read

ONES = np.ones((4, 4), np.float32)


@pytest.mark.parametrize("shape", [(4, 1), (4, 4), (1, 4), (4,), (1,), ()])
def test_a_gemms_bias_by_sample_is_no_bias_by_channel(shape):
    """Four samples and four channels: a bias (4, 1) is not one value for each channel."""
    random = np.random.default_rng(0)
    unit = parse(
        "g (float[4,4] x) => (float[4,4] y) {\n[one] h = Gemm(x, w, b)\n[two] y = Gemm(h, v)\n}",
        w=random.standard_normal((4, 4)).astype(np.float32),
        b=random.standard_normal(shape).astype(np.float32) * 5,
        v=random.standard_normal((4, 4)).astype(np.float32),
    )
    ctx = planned(unit, replace(ONNXRUNTIME, bias="int32"), Variant.INT8)
    by_sample = len(shape) == 2 and shape[0] > 1
    assert ("one" in quantised(ctx.plan)) is not by_sample
    layers = {layer.name: layer.obstacle for layer in weighted_layers(read(unit))}
    assert layers == {"one": "its bias differs by sample" if by_sample else "", "two": ""}
    after = check_pass(InsertQdq(), unit, ctx).unit
    assert snr_db(unit, after, ctx) > 30


def snr_db(before, after, ctx):
    from rtc.calibration.effect import output_snr_db

    return output_snr_db(before.onnx.proto, after.onnx.proto, ctx.data.test)


@pytest.mark.parametrize(
    ("op", "input_shape", "weight_shape"),
    [
        ("MatMul", "N,4,4", (4, 4, 4)),
        ("MatMul", "N,4", (4,)),
        ("Conv<group = 2>", "N,4,4", (4, 2, 1)),
    ],
)
def test_weights_of_every_rank_have_their_axis_or_an_obstacle(op, input_shape, weight_shape):
    weight = np.ones(weight_shape, np.float32)
    unit = parse(f"g (float[{input_shape}] x) => (float[N,M] y) {{\ny = {op}(x, w)\n}}", w=weight)
    (layer,) = weighted_layers(read(unit))
    dimensions = len(weight_shape)
    obstacle = f"its weights have {dimensions} dimensions, not 2" if op == "MatMul" else ""
    assert layer.obstacle == obstacle


def test_weights_on_the_left_are_no_layers():
    unit = parse("g (float[N,4,4] x) => (float[N,4,4] y) {\ny = MatMul(w, x)\n}", w=ONES)
    (layer,) = weighted_layers(read(unit))
    assert layer.obstacle == "its weights are not constant"


def test_dead_channels_of_a_grouped_transposed_convolution():
    """Two groups of three channels; the second group's first is dead, the first group's is not."""
    weight = np.ones((4, 3, 1, 1), np.float32)
    weight[2:, 0] = 0
    unit = parse(
        "g (float[N,4,2,2] x) => (float[N,6,2,2] y) {\ny = ConvTranspose<group = 2>(x, w)\n}",
        w=weight,
    )
    (layer,) = weighted_layers(read(unit))
    assert dead_channels(layer) == 1
