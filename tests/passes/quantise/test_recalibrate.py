from dataclasses import replace

import pytest
from check_pass import check_pass
from nets import ONNXRUNTIME, TENSORRT, context
from residual_nets import blocks

from rtc.calibration.collect import collect
from rtc.calibration.effect import output_snr_db
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.precision import ResidualPolicy, Variant
from rtc.compiler.execution.pass_contract import check_requirements
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.qdq import quantised_twin
from rtc.passes.quantise.recalibrate import Recalibrate

UNIT = blocks()
ANEW = ResidualPolicy.RECALIBRATED


def planned(scheme, *, observer="percentile:99", **pins: ResidualPolicy) -> PassContext:
    ctx = context(UNIT, scheme, 64)
    assign = AssignPrecision(variant=Variant.INT8, observer=observer, residuals=pins)
    ranges = collect(UNIT.onnx.proto, assign.needs(UNIT), ctx.calibration())
    ctx = replace(ctx, statistics=ranges)
    return replace(ctx, plan=assign.apply(UNIT, ctx).plan)


def snr(ctx, statistics):
    twin = quantised_twin(UNIT, replace(ctx, statistics=statistics))
    return output_snr_db(UNIT.onnx.proto, twin.onnx.proto, ctx.data.test)


def test_the_contract_of_every_pass():
    assert check_pass(Recalibrate(), UNIT, planned(TENSORRT, join2=ANEW)).unit is UNIT


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, TENSORRT])
def test_an_add_has_the_ranges_around_it_taken_anew_and_no_other(scheme):
    ctx = planned(scheme, join2=ANEW)
    result = Recalibrate(samples=64).apply(UNIT, ctx)
    changed = {n for n, seen in result.statistics.items() if seen != ctx.statistics[n]}
    assert changed == set(result.details["tensors"]) == {"r1", "b2", "r2"}
    assert result.summary == "3 ranges around 1 residual Adds taken anew"
    assert snr(ctx, result.statistics) > snr(ctx, ctx.statistics)


def test_without_such_an_add_everything_stays():
    ctx = planned(TENSORRT)
    result = Recalibrate().apply(UNIT, ctx)
    assert result.statistics == ctx.statistics


def test_it_requires_a_plan():
    with pytest.raises(RecipeError, match="needs a precision plan"):
        check_requirements(Recalibrate(), context(UNIT, TENSORRT))
