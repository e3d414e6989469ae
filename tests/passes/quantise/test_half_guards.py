"""Small constants that keep zero from a divisor or a logarithm."""

from __future__ import annotations

import numpy as np
import pytest
from guarded_nets import floats_of, snr_db
from half_nets import LAST, Case, context, in_half, normal

from rtc.passes.quantise.half_loss import half_losses

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
