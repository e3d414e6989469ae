from dataclasses import replace

import numpy as np
import pytest
from check_pass import check_pass, parse
from nets import ONNXRUNTIME, TENSORRT, context
from residual_nets import blocks

from rtc.calibration.collect import collect
from rtc.calibration.effect import output_snr_db
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.precision import Precision, Variant
from rtc.compiler.execution.pass_contract import check_requirements
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.calibrate_segments import CalibrateSegments
from rtc.passes.quantise.qdq import quantised_twin

UNIT = blocks()


def planned(scheme, observer, unit=UNIT, **options) -> PassContext:
    ctx = context(unit, scheme, 64)
    assign = AssignPrecision(variant=Variant.INT8, observer=observer, **options)
    ranges = collect(unit.onnx.proto, assign.needs(unit), ctx.calibration())
    ctx = replace(ctx, statistics=ranges)
    return replace(ctx, plan=assign.apply(unit, ctx).plan)


def snr(ctx, statistics, unit=UNIT):
    twin = quantised_twin(unit, replace(ctx, statistics=statistics))
    return output_snr_db(unit.onnx.proto, twin.onnx.proto, ctx.data.test)


def changed(ctx, result):
    return {n for n, seen in result.statistics.items() if seen != ctx.statistics[n]}


def test_the_contract_of_every_pass():
    ctx = planned(TENSORRT, "percentile:99")
    assert check_pass(CalibrateSegments(segments=1), UNIT, ctx).unit is UNIT


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, TENSORRT])
def test_ranges_that_clip_too_much_are_mended(scheme):
    ctx = planned(scheme, "percentile:99")
    result = CalibrateSegments(segments=3).apply(UNIT, ctx)
    assert snr(ctx, result.statistics) > snr(ctx, ctx.statistics) + 3.0
    before, after = result.details["snr_db"]
    assert after > before
    assert changed(ctx, result) == set(result.details["tensors"])


def test_every_quantised_tensor_but_the_input():
    ctx = planned(ONNXRUNTIME, "percentile:99")
    tensors = CalibrateSegments().apply(UNIT, ctx).details["tried"]
    assert tensors == ["r0", "ra1", "b1", "r1", "ra2", "b2", "r2", "g", "y"]


def test_more_segments_than_tensors_are_one_each():
    ctx = planned(TENSORRT, "percentile:99")
    one_each = CalibrateSegments(segments=100).apply(UNIT, ctx)
    assert one_each.details["tried"] == ["r0", "ra1", "r1", "ra2", "g"]
    assert snr(ctx, one_each.statistics) > snr(ctx, ctx.statistics)


def test_what_does_not_gain_is_left_as_it_is():
    """A net whose activations are on the integers' grid already: nothing can be better."""
    grid = np.arange(-127, 128, dtype=np.float32)
    unit = parse(
        """g (float[N,255] x) => (float[N,255] y) {
        [first] a = MatMul(x, w)
        [last] y = MatMul(a, w)
    }""",
        w=np.eye(255, dtype=np.float32),
    )
    ctx = planned(TENSORRT, "minmax", unit)
    split = replace(ctx.calibration(), raw=np.stack([np.roll(grid, n) for n in range(16)]))
    ctx = replace(ctx, data=replace(ctx.data, split=split))
    needs = AssignPrecision(observer="minmax").needs(unit)
    ctx = replace(ctx, statistics=collect(unit.onnx.proto, needs, split))
    result = CalibrateSegments().apply(unit, ctx)
    assert result.statistics == ctx.statistics
    assert result.summary == "0 of 1 ranges taken anew"


def test_nothing_to_do():
    ctx = planned(TENSORRT, "percentile:99")
    ctx = replace(ctx, plan=replace(ctx.plan, layers={}, residuals={}, default=Precision.FP32))
    result = CalibrateSegments().apply(UNIT, ctx)
    assert result.statistics == ctx.statistics
    assert result.summary == "no tensor to take a range of"


def test_it_requires_a_plan():
    with pytest.raises(RecipeError, match="needs a precision plan"):
        check_requirements(CalibrateSegments(), context(UNIT, TENSORRT))
