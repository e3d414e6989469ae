"""Models that FP16 breaks: just what needs float stays float, and the rest is right in half."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from check_pass import Samples, parse
from nets import PROFILE, TENSORRT

from rtc.calibration.collect import collect
from rtc.calibration.decibels import decibels
from rtc.calibration.oracle import Oracle
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.passes import PassContext, TargetContext
from rtc.compiler.core.precision import Precision, Variant
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.core.unit import Unit
from rtc.passes.assign_precision import AssignPrecision
from rtc.passes.cast_precision import CastPrecision
from rtc.passes.half_loss import half_losses

LOWEST = np.float32(np.finfo(np.float32).min)
BF16 = replace(TENSORRT, half="bf16")


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A model, what it is run on, and the nodes that FP16 breaks."""

    text: str
    floats: str
    samples: np.ndarray
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def unit(self) -> Unit:
        return parse(self.text, **self.weights)


def context(case: Case, scheme: QuantScheme = TENSORRT) -> PassContext:
    data = Samples(Split("some", case.samples, None, Preprocess()))
    ranges = collect(case.unit.onnx.proto, AssignPrecision().needs(case.unit), data.calibration)
    return PassContext(data, target=TargetContext(PROFILE, "some", scheme, 8), statistics=ranges)


def in_half(unit: Unit, ctx: PassContext) -> tuple[set[str], Unit]:
    """The nodes that stay float, and the graph in half."""
    losses = half_losses(unit, ctx)
    plan = AssignPrecision(variant=Variant.HALF, half_losses=losses).apply(unit, ctx).plan
    assert all(plan.layers[name].because == why for name, why in losses.items())
    floats = {n for n, each in plan.layers.items() if each.precision is Precision.FP32}
    return floats, CastPrecision().apply(unit, replace(ctx, plan=plan)).unit


def snr_db(unit: Unit, half: Unit, inputs: np.ndarray) -> float:
    with Oracle(unit.onnx.proto) as before, Oracle(half.onnx.proto) as after:
        (wanted,), (got,) = before.run(inputs).values(), after.run(inputs).values()
    assert np.isfinite(got).all()
    return decibels(float(np.square(wanted).sum()), float(np.square(got - wanted).sum()))


LAYER_NORM = """g (float[N,4,64] x) => (float[N,4,64] y) <float two = {2}, float eps = {1e-6}> {
    [mean] m = ReduceMean<keepdims = 1>(x, axes)
    [sub] d = Sub(x, m)
    [pow] p = Pow(d, two)
    [var] v = ReduceMean<keepdims = 1>(p, axes)
    [eps] e = Add(v, eps)
    [sqrt] s = Sqrt(e)
    [div] n = Div(d, s)
    [scale] y = Mul(n, w)
}"""
LAST = {"axes": np.array([-1])}
RMS_NORM = """g (float[N,4,64] x) => (float[N,4,64] y) <float eps = {1e-6}> {
    [square] p = Mul(x, x)
    [mean] m = ReduceMean<keepdims = 1>(p, axes)
    [eps] e = Add(m, eps)
    [sqrt] s = Sqrt(e)
    [inverse] r = Reciprocal(s)
    [scale] n = Mul(x, r)
    [weight] y = Mul(n, w)
}"""
GROUP_NORM = """g (float[N,8,6,6] x) => (float[N,8,6,6] y) <float eps = {1e-5}> {
    [groups] g = Reshape(x, to_groups)
    [mean] m = ReduceMean<keepdims = 1>(g, axes)
    [sub] d = Sub(g, m)
    [square] p = Mul(d, d)
    [var] v = ReduceMean<keepdims = 1>(p, axes)
    [eps] e = Add(v, eps)
    [sqrt] s = Sqrt(e)
    [div] n = Div(d, s)
    [back] b = Reshape(n, to_channels)
    [scale] y = Mul(b, w)
}"""
GROUPS = {
    "axes": np.array([-1]),
    "to_groups": np.array([0, 2, -1]),
    "to_channels": np.array([0, 8, 6, 6]),
}
ATTENTION = """g (float[N,8,8] x) => (float[N,8,8] y) {
    [logits] l = MatMul(x, w)
    [mask_add] m = Add(l, mask)
    [softmax] p = Softmax(m)
    [values] y = MatMul(p, x)
}"""
MASK = np.where(np.triu(np.ones((8, 8)), 1) > 0, LOWEST, np.float32(0))
ALL_MASKED = MASK.copy()
ALL_MASKED[5] = LOWEST
BUILT_MASK = """g (float[N,8,8] x) => (float[N,8,8] y)
    <float one = {1}, float low = {-1e9}, float zero = {0}> {
    [positive] b = Greater(x, zero)
    [as_float] m = Cast<to = 1>(b)
    [others] o = Sub(one, m)
    [lowest] k = Mul(o, low)
    [logits] l = MatMul(x, w)
    [mask_add] a = Add(l, k)
    [softmax] p = Softmax(a)
    [values] y = MatMul(p, x)
}"""
WHERE_MASK = """g (float[N,8,8] x) => (float[N,8,8] y) <float low = {-3e38}, float zero = {0}> {
    [positive] b = Greater(x, zero)
    [logits] l = MatMul(x, w)
    [mask] a = Where(b, l, low)
    [softmax] p = Softmax(a)
    [values] y = MatMul(p, x)
}"""
EXP = """g (float[N,32] x) => (float[N,32] y) {
    [exp] e = Exp(x)
    [sum] s = ReduceSum<keepdims = 1>(e, axes)
    [div] p = Div(e, s)
    [scale] y = Mul(p, w)
}"""
LOG = """g (float[N,32] x) => (float[N,32] y) {
    [softmax] p = Softmax(x)
    [log] l = Log(p)
    [scale] y = Mul(l, w)
}"""
LOGITS = """g (float[N,8,64] x) => (float[N,8,64] y) {
    [query] q = MatMul(x, w)
    [key] k = Transpose<perm = [0,2,1]>(x)
    [logits] l = MatMul(q, k)
    [softmax] p = Softmax(l)
    [values] y = MatMul(p, v)
}"""
OFFSET = """g (float[N,16] x) => (float[N,16] y) <float far = {2000}> {
    [shift] s = Add(x, far)
    [mean] m = ReduceMean<keepdims = 1>(s, axes)
    [sub] d = Sub(s, m)
    [scale] y = Mul(d, w)
}"""
SUM = """g (float[N,64,64,8] x) => (float[N,8] y) <float k = {1e-3}> {
    [square] p = Mul(x, x)
    [sum] s = ReduceSum<keepdims = 0>(p, axes)
    [scaled] t = Mul(s, k)
    [weight] y = Mul(t, w)
}"""
TINY = """g (float[N,16] x) => (float[N,16] y) <float small = {1e-9}, float large = {1e9}> {
    [weight] v = Mul(x, w)
    [down] d = Mul(v, small)
    [up] u = Mul(d, large)
    [twice] y = Add(u, u)
}"""
NOTHING_LEFT = """g (float[N,4,64] x) => (float[N,4,64] y) {
    [norm] n = LayerNormalization(x, w)
    [mean] m = ReduceMean<keepdims = 1>(n, axes)
    [sub] d = Sub(n, m)
    [twice] y = Add(d, d)
}"""

CASES = {
    "layer-norm": Case(
        LAYER_NORM,
        "pow var eps sqrt",
        normal(24, 4, 64) * 400,
        {"w": normal(64), **LAST},
    ),
    "layer-norm-of-small-values": Case(
        LAYER_NORM, "", normal(24, 4, 64), {"w": normal(64), **LAST}
    ),
    "rms-norm": Case(
        RMS_NORM,
        "square mean eps sqrt",
        normal(24, 4, 64) * 600,
        {"w": normal(64), **LAST},
    ),
    "group-norm": Case(
        GROUP_NORM,
        "square var eps sqrt",
        normal(24, 8, 6, 6) * 600,
        {"w": normal(8, 1, 1), **GROUPS},
    ),
    "mask": Case(
        ATTENTION, "mask_add softmax", normal(24, 8, 8), {"w": normal(8, 8), "mask": ALL_MASKED}
    ),
    "mask-that-fits": Case(
        ATTENTION,
        "",
        normal(24, 8, 8),
        {"w": normal(8, 8), "mask": np.maximum(MASK, np.float32(-1e4))},
    ),
    "built-mask": Case(
        BUILT_MASK, "as_float lowest mask_add softmax", normal(24, 8, 8), {"w": normal(8, 8)}
    ),
    "where-mask": Case(WHERE_MASK, "mask softmax", normal(24, 8, 8), {"w": normal(8, 8)}),
    "exp": Case(EXP, "exp sum div", normal(24, 32) * 5, {"w": normal(32), **LAST}),
    "log": Case(LOG, "softmax log", normal(24, 32) * 8, {"w": normal(32)}),
    "sums": Case(
        SUM,
        "sum scaled",
        normal(8, 64, 64, 8) * 8,
        {"w": normal(8), "axes": np.array([1, 2])},
    ),
    "underflow": Case(TINY, "down up", normal(24, 16), {"w": normal(16)}),
    "offset": Case(OFFSET, "shift mean sub", normal(24, 16) * 0.1, {"w": normal(16), **LAST}),
    "noise-alone": Case(
        NOTHING_LEFT, "", normal(24, 4, 64), {"w": np.ones(64, np.float32), **LAST}
    ),
}


def test_infinities_of_the_model_are_no_loss() -> None:
    mask = np.where(MASK < 0, np.float32(-np.inf), np.float32(0))
    case = Case(ATTENTION, "", normal(24, 8, 8), {"w": normal(8, 8), "mask": mask})
    data = Samples(Split("some", case.samples, None, Preprocess()))
    target = TargetContext(PROFILE, "some", TENSORRT, 8)
    assert half_losses(case.unit, PassContext(data, target=target)) == {}


@pytest.mark.parametrize("name", CASES)
def test_just_what_half_breaks_stays_float(name: str) -> None:
    case = CASES[name]
    floats, half = in_half(case.unit, context(case))
    assert floats == set(case.floats.split())
    assert snr_db(case.unit, half, case.samples) > 40


def test_logits_of_a_large_scale_stay_float_with_what_they_are_made_of() -> None:
    """Tokens are alike, and it is their small differences that the softmax tells apart."""
    tokens = normal(16, 1, 64) * 8 + normal(16, 8, 64, seed=2) * 0.2
    weights = {"w": np.eye(64, dtype=np.float32), "v": normal(8, 64)}
    case = Case(LOGITS, "", tokens, weights)
    floats, half = in_half(case.unit, context(case))
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


@pytest.mark.parametrize(
    ("text", "floats"), [(L2, {"guard", "div"}), (L2_INSIDE, {"guard", "sqrt"})]
)
def test_a_guard_against_zero_holds_where_no_sample_needs_it(text: str, floats: set[str]) -> None:
    case = Case(text, "", normal(24, 16), {"w": normal(16), **LAST})
    found, half = in_half(case.unit, context(case))
    assert found == floats
    zeros = case.samples.copy()
    zeros[3] = 0
    assert snr_db(case.unit, half, zeros) > 40


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


def test_a_layer_that_half_breaks_is_not_int8_beside_halves() -> None:
    text = """g (float[N,8] x) => (float[N,8] y) <float small = {1e-3}> {
        [large] a = MatMul(x, w)
        [scaled] y = Mul(a, small)
    }"""
    case = Case(text, "", normal(24, 8), {"w": normal(8, 8) * np.float32(2e4)})
    losses = half_losses(case.unit, context(case))
    assert set(losses) == {"large", "scaled"}
