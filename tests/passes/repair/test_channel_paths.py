"""Where channels go between two layers, and what stops a pair from being equalised."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from check_pass import check_pass, constant, parse
from equalised import uneven, weights

from rtc.passes.repair.equalize import Equalize


@dataclass(frozen=True)
class Route:
    """A way from a layer of four channels to the next, in which sizes agree wherever they can.

    `made` is the axis of w1 that makes the channels; `read` sorts w2 by them: (4, …).
    """

    sample: str
    body: str
    w1: tuple[int, ...]
    w2: tuple[int, ...]
    made: int
    read: Callable[[np.ndarray], np.ndarray]


TOKENS = "[one] a = MatMul(x, w1)\n r = Relu(a)\n"
LAST = "[two] z = MatMul({}, w2)\n y = Flatten(z)"
ROUTES = {
    "tokens flattened": Route(
        "4,4",
        TOKENS + "f = Flatten(r)\n [two] y = Gemm(f, w2)",
        (4, 4),
        (16, 3),
        1,
        lambda w: w.reshape(4, 4, 3).transpose(1, 0, 2),
    ),
    "tokens turned and flattened": Route(
        "4,4",
        TOKENS + "t = Transpose<perm = [0,2,1]>(r)\n f = Flatten(t)\n [two] y = Gemm(f, w2)",
        (4, 4),
        (16, 3),
        1,
        lambda w: w.reshape(4, 12),
    ),
    "tokens": Route("4,4", TOKENS + LAST.format("r"), (4, 4), (4, 3), 1, lambda w: w),
    "rank 4": Route("4,4,4", TOKENS + LAST.format("r"), (4, 4), (4, 3), 1, lambda w: w),
    "rank 4, turned twice": Route(
        "4,4,4",
        TOKENS
        + "t = Transpose<perm = [0,3,1,2]>(r)\n u = Transpose<perm = [0,2,3,1]>(t)\n"
        + LAST.format("u"),
        (4, 4),
        (4, 3),
        1,
        lambda w: w,
    ),
    "one dimension flattened": Route(
        "4,4",
        "[one] a = Conv(x, w1, b1)\n r = LeakyRelu(a)\n f = Flatten(r)\n"
        "[two] y = Gemm<transB = 1>(f, w2)",
        (4, 4, 1),
        (3, 16),
        0,
        lambda w: w.T.reshape(4, 12),
    ),
    "a shape that is computed": Route(
        "4,2,2",
        "[one] a = Conv(x, w1, b1)\n r = Relu(a)\n s = Shape<end = 1>(r)\n"
        "s2 = Concat<axis = 0>(s, sixteen)\n f = Reshape(r, s2)\n [two] y = MatMul(f, w2)",
        (4, 4, 1, 1),
        (16, 3),
        0,
        lambda w: w.reshape(4, 12),
    ),
    "shuffled groups": Route(
        "4,2,2",
        "[one] a = Conv<group = 2>(x, w1, b1)\n r = PRelu(a, slope)\n g = Reshape(r, two_groups)\n"
        "t = Transpose<perm = [0,2,1,3,4]>(g)\n u = Reshape(t, four)\n"
        "[two] z = Conv<group = 2>(u, w2)\n y = Flatten(z)",
        (4, 2, 1, 1),
        (4, 2, 1, 1),
        0,
        lambda w: w.reshape(2, 2, 2).transpose(2, 0, 1),  # (out of group, in, group) of the source
    ),
    "channels last": Route(
        "4,4,4",
        "[one] a = ConvTranspose(x, w1, b1)\n r = Relu(a)\n t = Transpose<perm = [0,2,3,1]>(r)\n"
        + LAST.format("t"),
        (4, 4, 1, 1),
        (4, 3),
        1,
        lambda w: w,
    ),
    "the mean of tokens": Route(
        "4,4",
        TOKENS + "m = ReduceMean<keepdims = 0>(r, one_axis)\n [two] y = Gemm(m, w2)",
        (4, 4),
        (4, 3),
        1,
        lambda w: w,
    ),
}
SHAPES = {
    "sixteen": np.array([16]),
    "two_groups": np.array([0, 2, 2, 2, 2]),
    "four": np.array([0, 4, 2, 2]),
    "one_axis": np.array([1]),
    "slope": np.array([[[0.1]], [[0.2]], [[-0.3]], [[0.4]]], np.float32),
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_channels_are_followed_to_where_they_are_read(route):
    w1 = uneven(4, *(size for i, size in enumerate(route.w1) if i != route.made))
    unit = parse(
        f"g (float[N,{route.sample}] x) => (float[N,M] y) {{\n{route.body}\n}}",
        w1=np.ascontiguousarray(np.moveaxis(w1, 0, route.made), np.float32),
        b1=weights(4),
        w2=weights(*route.w2),
        **{name: values for name, values in SHAPES.items() if name in route.body},
    )
    result = check_pass(Equalize(), unit)
    assert [(row["first"], row["second"]) for row in result.details["pairs"]] == [("one", "two")]
    made = np.moveaxis(constant(result.unit, "one/weight"), route.made, 0).reshape(4, -1)
    read = route.read(constant(result.unit, "two/weight")).reshape(4, -1)
    np.testing.assert_allclose(np.abs(made).max(1), np.abs(read).max(1), rtol=0.02)


SIGMOID = "[h] r = Sigmoid(a)\n[two] y = Conv(r, w2)"
SHARED = "[h] r = Relu(a)\n[two] t = Conv(r, w2)\n[add] y = Add(t, r)"
JOINED = "[add] r = Add(a, x)\n[two] y = Conv(r, w2)"
MIXED = "[turn] t = Transpose<perm = [0,2,1,3]>(a)\n[two] y = Conv(t, w2)"
AVERAGED = (
    "t = Transpose<perm = [0,2,1,3]>(a)\n p = AveragePool<kernel_shape = [4,1]>(t)\n"
    "u = Transpose<perm = [0,2,1,3]>(p)\n [two] y = Conv(u, w2)"
)
TURNED = "[turn] t = Transpose<perm = [0,2,1,3]>(a)\n u = Relu(t)\n [two] y = Conv(u, w2)"
SLOPE = "[slope] r = PRelu(x, a)\n [two] y = Conv(r, w2)"
CUT = "top = ReduceMax<keepdims = 0>(x)\n [cut] r = Clip(a, low, top)\n [two] y = Conv(r, w2)"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (SIGMOID, "h (Sigmoid) reads it, and is no scaling's equal"),
        (SHARED, "r has 2 readers"),
        (JOINED, "add (Add) reads it, and is no scaling's equal"),
        (MIXED, "two behind it does not read its channels one by one"),
        (TURNED, "two behind it does not read its channels one by one"),
        (AVERAGED, "two behind it does not read its channels one by one"),
        (SLOPE, "slope (PRelu) reads it, and is no scaling's equal"),
        (CUT, "cut (Clip) reads it, and is no scaling's equal"),
    ],
)
def test_what_stops_a_pair_is_named(body, reason):
    unit = parse(
        f"g (float[N,4,4,4] x) => (float[N,4,H,4] y) {{\n[one] a = Conv(x, w1)\n{body}\n}}",
        w1=uneven(4, 4, 1, 1).astype(np.float32),
        w2=weights(4, 4 if body is not AVERAGED else 1, 1, 1),
        low=np.float32(0),
    )
    result = check_pass(Equalize(), unit)
    assert not result.modified
    assert result.details["stopped"]["one"] == reason


MAXOUT = "v = Reshape(r, pairs_of)\n m = ReduceMax<keepdims = 0>(v, last_axis)\n"
POOLED = "u = Unsqueeze(r, one_axis)\n p = MaxPool<kernel_shape = [2], strides = [2]>(u)\n"
ACROSS = {  # maxima across channels, with what the first layer reads and the shapes of w1 and w2
    "maxout": ("8", MAXOUT + "[two] y = Gemm(m, w2)", (8, 8), (4, 3)),
    "over tokens' channels": (
        "6,8",
        "m = ReduceMax<keepdims = 0>(r, last_axis)\n [two] y = Gemm(m, w2)",
        (8, 4),
        (6, 3),
    ),
    "of two": ("8", "m = ReduceMax(r, last_axis)\n [two] y = Gemm(m, w2)", (8, 2), (1, 3)),
    "of many": ("8", "m = ReduceMax(r, last_axis)\n [two] y = Gemm(m, w2)", (8, 300), (1, 3)),
    "pooled": (
        "8",
        POOLED + "f = Flatten(p)\n [two] y = Gemm(f, w2)",
        (8, 8),
        (4, 3),
    ),
}


@pytest.mark.parametrize("batch", ["N", "1", "3"])
@pytest.mark.parametrize("across", ACROSS.values(), ids=ACROSS)
def test_a_maximum_across_channels_is_none_of_them(across, batch):
    sample, body, w1, w2 = across
    known = {
        "pairs_of": np.array([0, 4, 2]),
        "last_axis": np.array([-1]),
        "one_axis": np.array([1]),
    }
    unit = parse(
        f"""g (float[{batch},{sample}] x) => (float[{batch},3] y) {{
        [one] a = MatMul(x, w1)
        r = Relu(a)
        {body}
    }}""",
        opsets='"" : 18',
        w1=np.ascontiguousarray(uneven(*w1[::-1]).T, np.float32),
        w2=weights(*w2),
        **{name: values for name, values in known.items() if name in body},
    )
    result = check_pass(Equalize(), unit, samples=6)
    assert result.details["pairs"] == []
    assert result.details["stopped"]["one"].endswith("does not read its channels one by one")


def test_a_thousand_channels_are_told_apart_and_a_maximum_of_each_is_followed():
    order = np.random.default_rng(3).permutation(1000)
    unit = parse(
        """g (float[N,3,2] x) => (float[N,2] y) {
        [one] a = Conv(x, w1)
        m = GlobalMaxPool(a)
        f = Flatten(m)
        v = Reshape(f, twenty)
        t = Transpose<perm = [0,2,1]>(v)
        g = Flatten(t)
        [two] y = Gemm(g, w2)
    }""",
        w1=uneven(1000, 3, 1).astype(np.float32)[order],
        w2=weights(1000, 2),
        twenty=np.array([0, 20, 50]),
    )
    result = check_pass(Equalize(), unit)
    made = np.abs(constant(result.unit, "one/weight")).max((1, 2))
    read = np.abs(constant(result.unit, "two/weight")).max(1).reshape(50, 20).T.reshape(-1)
    np.testing.assert_allclose(made, read, rtol=0.02)


@pytest.mark.parametrize(
    ("make", "limits"),
    [
        ("low = Constant<value_float = 0.0>()", "low"),
        ("low = Constant<value = float {0}>()", "low"),
        ("low = Constant<value_float = 0.0>() lows = Constant<value_float = inf>()", "low, lows"),
    ],
)
def test_limits_are_read_in_whatever_form_they_are_written(make, limits):
    unit = parse(
        f"""g (float[N,4] x) => (float[N,3] y) {{
        {make}
        [one] a = Gemm(x, w1)
        r = Clip(a, {limits})
        [two] y = Gemm(r, w2)
    }}""",
        w1=uneven(8, 4).T.astype(np.float32),
        w2=weights(8, 3),
    )
    assert len(check_pass(Equalize(), unit).details["pairs"]) == 1


@pytest.mark.parametrize("op", ["Shape", "Size"])
def test_who_asks_for_sizes_reads_no_channels(op):
    unit = parse(
        f"""g (float[N,4] x) => (float[N,3] y) {{
        [one] a = Gemm(x, w1)
        r = Relu(a)
        s = {op}(r)
        f = Cast<to = 1>(s)
        [two] p = Gemm(r, w2)
        m = ReduceMax<keepdims = 0>(f)
        y = Mul(p, m)
    }}""",
        w1=uneven(8, 4).T.astype(np.float32),
        w2=weights(8, 3),
    )
    assert len(check_pass(Equalize(), unit).details["pairs"]) == 1
