"""Models that FP16 breaks: just what needs float stays float, and the rest is right in half."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from check_pass import Samples
from half_nets import ATTENTION, CASES, LAST, LAYER_NORM, MASK, Case, context, in_half, normal
from nets import PROFILE, TENSORRT

from rtc.calibration.decibels import decibels
from rtc.calibration.oracle import Oracle
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.passes import PassContext, TargetContext
from rtc.compiler.core.precision import Precision, PrecisionPlan, Variant
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.cast_precision import CastPrecision
from rtc.passes.quantise.half_loss import half_losses
from rtc.passes.quantise.insert_qdq import InsertQdq

BF16 = replace(TENSORRT, half="bf16")


def floats_of(plan: PrecisionPlan) -> set[str]:
    return {n for n, each in plan.layers.items() if each.precision is Precision.FP32}


def snr_db(unit: Unit, half: Unit, inputs: np.ndarray) -> float:
    with Oracle(unit.onnx.proto) as before, Oracle(half.onnx.proto) as after:
        (wanted,), (got,) = before.run(inputs).values(), after.run(inputs).values()
    assert np.isfinite(got).all()
    return decibels(float(np.square(wanted).sum()), float(np.square(got - wanted).sum()))


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


L2 = """g (float[N,16] x) => (float[N,16] y) <float eps = {1e-12}> {
    [weight] v = Mul(x, w)
    [norm] n = ReduceL2<keepdims = 1>(v, axes)
    [guard] m = Max(n, eps)
    [div] u = Div(v, m)
    [twice] y = Add(u, u)
}"""
L2_INSIDE = """g (float[N,16] x) => (float[N,16] y) <float eps = {1e-12}> {
    [square] q = Mul(x, x)
    [sum] s = ReduceSum<keepdims = 1>(q, axes)
    [guard] m = Add(s, eps)
    [sqrt] r = Sqrt(m)
    [div] u = Div(x, r)
    [scale] y = Mul(u, w)
}"""


INVERSE = """g (float[N,16] x) => (float[N,16] y) <float eps = {1e-12}> {
    [square] q = Mul(x, x)
    [sum] s = ReduceSum<keepdims = 1>(q, axes)
    [guard] m = Add(s, eps)
    [sqrt] r = Sqrt(m)
    [inverse] i = Reciprocal(r)
    [div] u = Mul(x, i)
    [scale] y = Mul(u, w)
}"""
LOG_OF_SUM = """g (float[N,16] x) => (float[N,16] y) <float eps = {1e-10}> {
    [positive] p = Relu(x)
    [guard] m = Add(p, eps)
    [log] l = Log(m)
    [scale] y = Mul(l, w)
}"""


@pytest.mark.parametrize(
    ("text", "floats"),
    [
        (L2, {"guard", "div"}),
        (L2_INSIDE, {"guard", "sqrt"}),
        (INVERSE, {"guard", "sqrt", "inverse", "div"}),
        (LOG_OF_SUM, {"guard", "log"}),
    ],
    ids=["l2", "l2-inside", "inverse", "log"],
)
def test_a_guard_against_zero_holds_where_no_sample_needs_it(text: str, floats: set[str]) -> None:
    case = Case(text, "", normal(24, 16), {"w": normal(16), **LAST})
    plan, half = in_half(case.unit, context(case))
    assert floats_of(plan) == floats
    zeros = case.samples.copy()
    zeros[3] = 0
    assert snr_db(case.unit, half, zeros) > 40


WHERE = """g (float[N,16] x) => (float[N,16] y) <float eps = {1e-12}, float zero = {0}> {
    [abs] q = Abs(x)
    [sum] s = ReduceSum<keepdims = 1>(q, axes)
    [none] b = Equal(s, zero)
    [guard] m = Where(b, eps, s)
    [div] u = Div(x, m)
    [scale] y = Mul(u, w)
}"""
TWO_CONDITIONS = """g (float[N,16] x) => (float[N,16] y)
    <float eps = {1e-12}, float zero = {0}, float one = {1}, float most = {1e4}> {
    [abs] q = Abs(x)
    [sum] s = ReduceSum<keepdims = 1>(q, axes)
    [none] b = Equal(s, zero)
    [many] c = Greater(s, most)
    [guard] m = Where(b, eps, s)
    [cut] k = Where(c, one, m)
    [div] u = Div(x, k)
    [scale] y = Mul(u, w)
}"""
CONV = """g (float[N,2,4,4] x) => (float[N,2,4,4] y) <float eps = {1e-12}> {
    [square] q = Mul(x, x)
    [guard] m = Add(q, eps)
    [mix] c = Conv(m, kernel)
    [sqrt] r = Sqrt(c)
    [div] u = Div(x, r)
    [twice] y = Add(u, u)
}"""
MATMUL = """g (float[N,16] x) => (float[N,16] y) <float eps = {1e-12}> {
    [square] q = Mul(x, x)
    [guard] m = Add(q, eps)
    [mix] c = MatMul(m, kernel)
    [sqrt] r = Sqrt(c)
    [div] u = Div(x, r)
    [scale] y = Mul(u, w)
}"""
EXPANDED = """g (float[N,16] x) => (float[N,16] y) <float eps = {1e-12}> {
    [norm] n = ReduceL2<keepdims = 1>(x, axes)
    [guard] m = Max(n, eps)
    [sizes] s = Shape(x)
    [expand] e = Expand(m, s)
    [div] u = Div(x, e)
    [scale] y = Mul(u, w)
}"""
RESHAPED = """g (float[N,16] x) => (float[N,16] y) <float eps = {1e-12}> {
    [norm] n = ReduceL2<keepdims = 1>(x, axes)
    [guard] m = Max(n, eps)
    [sizes] s = Shape(m)
    [same] r = Reshape(m, s)
    [div] u = Div(x, r)
    [scale] y = Mul(u, w)
}"""
AVERAGE = np.full((2, 2, 1, 1), 0.5, np.float32)


@pytest.mark.parametrize(
    ("text", "floats", "shape", "kernel"),
    [
        (WHERE, {"guard", "div"}, (16,), None),
        (TWO_CONDITIONS, {"guard", "cut", "div"}, (16,), None),
        (CONV, {"guard", "mix", "sqrt"}, (2, 4, 4), AVERAGE),
        (MATMUL, {"guard", "mix", "sqrt"}, (16,), np.full((16, 1), 0.5, np.float32)),
        (EXPANDED, {"guard", "expand", "div"}, (16,), None),
        (RESHAPED, {"guard", "div"}, (16,), None),
    ],
    ids=["where", "two-conditions", "conv", "matmul", "expanded", "reshaped"],
)
def test_a_guard_holds_whatever_lies_between(
    text: str, floats: set[str], shape: tuple[int, ...], kernel: np.ndarray | None
) -> None:
    weights = {"w": normal(16), **LAST, "kernel": kernel}
    used = {name: each for name, each in weights.items() if each is not None and name in text}
    case = Case(text, "", normal(24, *shape), used)
    plan, half = in_half(case.unit, context(case))
    assert floats_of(plan) == floats
    zeros = case.samples.copy()
    zeros[3] = 0
    assert snr_db(case.unit, half, zeros) > 40


def test_what_cannot_be_computed_here_may_be_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(proto: bytes) -> list[np.ndarray]:
        raise RuntimeError("no kernel")

    monkeypatch.setattr("rtc.passes.quantise.half_guards.evaluate", refuse)
    case = Case(L2_INSIDE, "", normal(24, 16), {"w": normal(16), **LAST})
    losses = half_losses(case.unit, context(case))
    assert losses == {"guard": "its 1e-12 guards against zero, and is lost in fp16"}


def test_a_guarded_value_may_be_the_size_that_another_tensor_takes() -> None:
    text = """g (float[1,16] x) => (float[1,16] y)
        <float eps = {1e-12}, int64[1] rest = {-1}, int64[1] last = {1}> {
        [peak] p = ReduceMax<keepdims = 0>(x, last)
        [guard] m = Max(p, eps)
        [ceil] c = Ceil(m)
        [count] i = Cast<to = 7>(c)
        [sizes] s = Concat<axis = 0>(i, rest)
        [reshape] y = Reshape(x, s)
    }"""
    case = Case(text, "", normal(24, 16) * np.float32(0.1))
    assert half_losses(case.unit, context(case)) == {}


def test_a_bias_that_keeps_zero_from_a_divisor_is_a_guard() -> None:
    text = """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        [conv] c = Conv<pads = [1,1,1,1]>(x, w, b)
        [norm] n = ReduceMax<keepdims = 1>(c)
        [div] y = Div(c, n)
    }"""
    weights = {"w": normal(4, 3, 3, 3), "b": np.full(4, 1e-9, np.float32)}
    case = Case(text, "", normal(8, 3, 8, 8), weights)
    _, half = in_half(case.unit, context(case))
    black = case.samples.copy()
    black[3] = 0
    assert snr_db(case.unit, half, black) > 40


def test_small_constants_that_guard_nothing_are_rounded() -> None:
    """A model whose batch normalisations are folded has biases of 1e-9."""
    text = """g (float[N,3,8,8] x) => (float[N,4,8,8] y) <float one = {1}> {
        [conv] c = Conv<pads = [1,1,1,1]>(x, w, b)
        [relu] r = Relu(c)
        [norm] n = ReduceMax<keepdims = 1>(r)
        [more] m = Add(n, one)
        [div] y = Div(r, m)
    }"""
    weights = {"w": normal(4, 3, 3, 3), "b": np.full(4, 1e-9, np.float32)}
    case = Case(text, "", normal(8, 3, 8, 8), weights)
    plan, half = in_half(case.unit, context(case))
    assert floats_of(plan) == set()
    assert snr_db(case.unit, half, case.samples) > 40


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
