"""Models that FP16 breaks: just what needs float stays float, and the rest is right in half."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from check_pass import Samples
from guarded_nets import floats_of, snr_db
from half_nets import ATTENTION, CASES, LAST, LAYER_NORM, MASK, Case, context, in_half, normal
from nets import PROFILE, TENSORRT

from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.passes import PassContext, TargetContext
from rtc.compiler.core.precision import Precision, Variant
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.cast_precision import CastPrecision
from rtc.passes.quantise.half_loss import half_losses
from rtc.passes.quantise.insert_qdq import InsertQdq

BF16 = replace(TENSORRT, half="bf16")


def test_infinities_of_the_model_are_no_loss() -> None:
    mask = np.where(MASK < 0, np.float32(-np.inf), np.float32(0))
    case = Case(ATTENTION, "", normal(24, 8, 8), {"w": normal(8, 8), "mask": mask})
    data = Samples(Split("some", case.samples, None, Preprocess()))
    target = TargetContext(PROFILE, "some", TENSORRT, 8)
    assert half_losses(case.unit, PassContext(data, target=target)) == {}


@pytest.mark.parametrize("name", CASES)
def test_just_what_half_breaks_stays_float(name: str) -> None:
    case = CASES[name]
    plan, half = in_half(case.unit, context(case))
    floats = floats_of(plan)
    assert floats == set(case.floats.split())
    assert snr_db(case.unit, half, case.samples) > 40


LOGITS = """g (float[N,8,64] x) => (float[N,8,64] y) {
    [query] q = MatMul(x, w)
    [key] k = Transpose<perm = [0,2,1]>(x)
    [logits] l = MatMul(q, k)
    [softmax] p = Softmax(l)
    [values] y = MatMul(p, v)
}"""


def test_logits_of_a_large_scale_stay_float_with_what_they_are_made_of() -> None:
    """Tokens are alike, and it is their small differences that the softmax tells apart."""
    tokens = normal(16, 1, 64) * 8 + normal(16, 8, 64, seed=2) * 0.2
    weights = {"w": np.eye(64, dtype=np.float32), "v": normal(8, 64)}
    case = Case(LOGITS, "", tokens, weights)
    plan, half = in_half(case.unit, context(case))
    floats = floats_of(plan)
    assert {"logits", "softmax"} <= floats
    assert "values" not in floats
    assert snr_db(case.unit, half, case.samples) > 20


def test_values_that_other_samples_may_well_have_are_out_of_range() -> None:
    """Of samples that reach 30,000 to 60,000, the next may reach 90,000."""
    scales = np.linspace(60, 120, 24, dtype=np.float32)[:, None, None]
    case = Case(LAYER_NORM, "", normal(24, 4, 64) * scales * 0.5, {"w": normal(64), **LAST})
    peak = float(np.square(case.samples).max())
    assert 30_000 < peak < 65_504
    assert "pow" in half_losses(case.unit, context(case))


def test_the_reason_tells_the_value() -> None:
    case = CASES["layer-norm"]
    losses = half_losses(case.unit, context(case))
    assert losses["pow"].startswith("it gives values of up to ")
    assert losses["pow"].endswith(", and fp16 ends at 65504")


def test_bf16_has_the_range() -> None:
    case = CASES["layer-norm"]
    assert half_losses(case.unit, context(case, BF16)) == {}


LARGE = """g (float[N,8] x) => (float[N,8] y) <float small = {1e-3}> {
    [large] a = MatMul(x, w)
    [scaled] b = Mul(a, small)
    [next] y = MatMul(b, v)
}"""


def large() -> Case:
    return Case(
        LARGE, "", normal(24, 8), {"w": normal(8, 8) * np.float32(2e4), "v": normal(8, 8, seed=2)}
    )


def test_a_layer_that_half_breaks_is_not_int8_beside_halves() -> None:
    case = large()
    ctx = context(case)
    losses = half_losses(case.unit, ctx)
    assert set(losses) == {"large", "scaled"}
    assign = AssignPrecision(variant=Variant.MIX, min_snr_db=-200, half_losses=losses)
    assert assign.apply(case.unit, ctx).plan.layers["large"].precision is Precision.FP32
    whole = replace(assign, variant=Variant.INT8)  # float32 around it
    assert whole.apply(case.unit, ctx).plan.layers["large"].precision is Precision.INT8


@pytest.mark.parametrize("variant", [Variant.HALF, Variant.MIX])
def test_a_layer_that_half_breaks_is_sound_where_it_is_pinned_to_int8(variant: Variant) -> None:
    case = large()
    ctx = context(case)
    losses = half_losses(case.unit, ctx)
    assign = AssignPrecision(variant=variant, half_losses=losses, pin={"large": Precision.INT8})
    plan = assign.apply(case.unit, ctx).plan
    assert plan is not None
    kinds = {name: each.precision for name, each in plan.layers.items()}
    assert kinds["large"] is Precision.INT8
    assert kinds["next"] is Precision.HALF
    planned = replace(ctx, plan=plan)
    unit = InsertQdq().apply(CastPrecision().apply(case.unit, planned).unit, planned).unit
    assert snr_db(case.unit, unit, case.samples) > 25
    given = replace(assign, given=plan, pin={})
    again = given.apply(case.unit, ctx).plan
    assert again is not None
    assert (again.default, dict(again.layers)) == (plan.default, dict(plan.layers))


def test_floats_made_of_sizes_alone_are_not_judged() -> None:
    """They are float32 whatever the plan is, and who reads one beyond the range is float."""
    text = """g (float[N,512] x) => (float[N,512] y) {
        [sizes] s = Shape<start = 1>(x)
        [float] f = Cast<to = 1>(s)
        [square] q = Mul(f, f)
        [root] r = Sqrt(q)
        [large] a = Mul(x, q)
        [back] b = Div(a, q)
        [small] y = Div(b, r)
    }"""
    case = Case(text, "", normal(24, 512))
    plan, half = in_half(case.unit, context(case))
    assert floats_of(plan) == {"large", "back"}
    assert snr_db(case.unit, half, case.samples) > 40


def test_an_index_that_is_computed_in_float_is_not_rounded_to_another() -> None:
    text = """g (float[N,9] x) => (float[N,4] y) {
        [sigmoid] s = Sigmoid(x)
        [scale] p = Mul(s, k)
        [floor] f = Floor(p)
        [index] i = Cast<to = 7>(f)
        [look_up] e = Gather(table, i)
        [mean] m = ReduceMean(e, axes)
        [head] y = MatMul(m, w)
    }"""
    weights = {
        "k": np.float32(4000),
        "table": np.sign(normal(4001, 16)),
        "axes": np.array([1], np.int64),
        "w": normal(16, 4),
    }
    case = Case(text, "", normal(24, 9), weights)
    plan, half = in_half(case.unit, context(case))
    assert {"sigmoid", "scale", "floor"} <= floats_of(plan)
    assert "head" not in floats_of(plan)
    assert snr_db(case.unit, half, case.samples) > 40
