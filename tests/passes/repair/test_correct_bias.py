from dataclasses import replace

import numpy as np
import pytest
from check_pass import check_pass, constant, parse
from hostile import DATA, digits_unit, half_steps, int8_snr, planned_on_digits, quantised
from nets import ONNXRUNTIME, TENSORRT, planned, residual

from rtc.calibration.means import channel_means
from rtc.compiler.core.precision import Variant
from rtc.passes.repair.correct_bias import CorrectBias

STEP = CorrectBias()


def mean_error(reference, unit, ctx):
    """The largest shift of a logit's mean in INT8 over the test digits, in float logits' units."""
    means = [
        channel_means(each.onnx.proto, ["logits"], DATA.test)["logits"]
        for each in (reference, quantised(unit, ctx))
    ]
    return np.abs(means[1] - means[0]).max()


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, TENSORRT], ids=["onnxruntime", "tensorrt"])
def test_a_planted_shift_is_removed_on_samples_not_seen(scheme):
    net = half_steps(digits_unit())
    ctx = planned_on_digits(net, scheme)
    result = check_pass(STEP, net, replace(ctx, reference=net))
    assert mean_error(net, result.unit, ctx) < 0.1 * mean_error(net, net, ctx)
    assert int8_snr(net, result.unit, ctx) > int8_snr(net, net, ctx) + 3
    before, after = result.details["snr_db"]
    assert after > before + 3
    assert list(result.details["layers"]) == ["conv", "fc"]


def test_layers_without_a_bias_get_one_and_a_matmul_is_left():
    unit = residual()
    ctx = planned(unit, TENSORRT, Variant.INT8)
    result = check_pass(STEP, unit, replace(ctx, reference=unit), idempotent=False)
    assert constant(result.unit, "depthwise/bias").shape == (16,)
    assert constant(result.unit, "conv3/bias").shape == (32,)
    chain = parse(
        "g (float[N,4] x) => (float[N,3] y) {\n[only] y = MatMul(x, w)\n}",
        w=np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32),
    )
    left = check_pass(STEP, chain, planned(chain, TENSORRT, Variant.INT8))
    assert left.details == {"left": {"only": "a MatMul has no bias"}}


def test_each_layer_meets_its_mean_with_the_layers_before_it_corrected():
    unit = residual()
    ctx = planned(unit, TENSORRT, Variant.INT8)
    result = CorrectBias(samples=32).apply(unit, ctx)
    learn = replace(
        ctx.data.calibration, raw=ctx.data.calibration.raw[[i % 4 < 3 for i in range(32)]]
    )
    for tensor in ("c1", "d", "y"):
        wanted = channel_means(unit.onnx.proto, [tensor], learn)[tensor]
        before = channel_means(quantised(unit, ctx).onnx.proto, [tensor], learn)[tensor]
        after = channel_means(quantised(result.unit, ctx).onnx.proto, [tensor], learn)[tensor]
        assert np.abs(after - wanted).max() < 0.05 * np.abs(before - wanted).max()


def test_biases_that_help_nothing_are_kept():
    net = half_steps(digits_unit())
    ctx = planned_on_digits(net)
    corrected = STEP.apply(net, ctx).unit
    again = STEP.apply(corrected, replace(ctx, reference=net))
    assert again.unit is corrected
    assert again.summary.startswith("left as it was: output ")


def test_a_plan_without_int8_changes_nothing():
    unit = residual()
    result = check_pass(STEP, unit, planned(unit, TENSORRT, Variant.HALF))
    assert result.summary == "no INT8 layer has a bias to correct"
