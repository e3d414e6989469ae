"""Models that FP16 breaks, what they are run on, and the nodes that are to stay float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from check_pass import Samples, parse
from nets import PROFILE, TENSORRT

from rtc.calibration.collect import collect
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.passes import PassContext, TargetContext
from rtc.compiler.core.precision import PrecisionPlan, Variant
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.cast_precision import CastPrecision
from rtc.passes.quantise.half_loss import half_losses

LOWEST = np.float32(np.finfo(np.float32).min)


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


def in_half(unit: Unit, ctx: PassContext) -> tuple[PrecisionPlan, Unit]:
    """The plan in half, and the graph of it."""
    losses = half_losses(unit, ctx)
    plan = AssignPrecision(variant=Variant.HALF, half_losses=losses).apply(unit, ctx).plan
    assert plan is not None
    assert all(plan.layers[name].because == why for name, why in losses.items())
    return plan, CastPrecision().apply(unit, replace(ctx, plan=plan)).unit


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
LOG_SOFTMAX = """g (float[N,32] x) => (float[N,32] y) {
    [log_softmax] l = LogSoftmax(x)
    [scale] y = Mul(l, w)
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

FAR = """g (float[N,16] x) => (float[N,16] y) <float far = {3000}> {
    [shift] s = Add(x, far)
    [back] b = Sub(s, far)
    [relu] y = Relu(b)
}"""
"""BF16 leaves nothing of it where every result is rounded; OpenVINO has one kernel for it all."""

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
    "log-softmax": Case(LOG_SOFTMAX, "log_softmax", normal(24, 32) * 8, {"w": normal(32)}),
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
