from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from check_pass import check_pass, constant, context_for, equations, parse
from hostile import digits_unit, int8_snr, planned_on_digits, unbalanced
from nets import ONNXRUNTIME, TENSORRT

from rtc.compiler.core.passes import Bounded, PassContext
from rtc.passes.repair.equalize import Equalize

RANDOM = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order_of_tests():
    """Each test draws the same weights, whichever ran before it in its process."""
    RANDOM.bit_generator.state = np.random.default_rng(5).bit_generator.state


def weights(*shape, spread=0.5):
    return (RANDOM.standard_normal(shape) * spread).astype(np.float32)


def uneven(*shape):
    """Weights whose output channels (axis 0) span three decades."""
    return weights(*shape) * np.logspace(-1.5, 1.5, shape[0]).reshape(-1, *[1] * (len(shape) - 1))


def spread(values, axis):
    rest = tuple(i for i in range(values.ndim) if i != axis)
    ranges = np.abs(values).max(rest)
    return ranges.max() / ranges.min()


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, TENSORRT], ids=["onnxruntime", "tensorrt"])
def test_a_planted_imbalance_is_recovered(scheme):
    net = digits_unit()
    planted = unbalanced(net)
    result = check_pass(Equalize(), planted)
    assert [(row["first"], row["second"]) for row in result.details["pairs"]] == [("conv", "fc")]
    (row,) = result.details["pairs"]
    assert row["ratio_before"] > 50
    assert row["ratio_after"] < 5
    before = int8_snr(planted, planted, planned_on_digits(planted, scheme))
    after = int8_snr(planted, result.unit, planned_on_digits(result.unit, scheme))
    assert after > before + 20


def test_both_sides_of_a_pair_get_the_same_ranges():
    unit = parse(
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        [one] a = Conv<pads = [1,1,1,1]>(x, w1, b1)
        [relu] r = Relu(a)
        [two] y = Conv(r, w2)
    }""",
        w1=uneven(8, 3, 3, 3).astype(np.float32),
        b1=weights(8),
        w2=weights(4, 8, 1, 1),
    )
    after = check_pass(Equalize(), unit).unit
    made = np.abs(constant(after, "one/weight")).max((1, 2, 3))
    read = np.abs(constant(after, "two/weight")).max((0, 2, 3))
    np.testing.assert_allclose(made, read, rtol=0.02)
    before = (
        np.abs(constant(unit, "w1")).max((1, 2, 3)),
        np.abs(constant(unit, "w2")).max((0, 2, 3)),
    )
    np.testing.assert_allclose(made, np.sqrt(before[0] * before[1]), rtol=0.02)


def test_depthwise_grouped_and_shared_weights_transposed_and_flattened():
    unit = parse(
        """g (float[N,4,8,8] x) => (float[N,3] y) {
        [expand] a = Conv(x, w1, b1)
        [relu1] r1 = Relu(a)
        [depth] d = Conv<group = 8, pads = [1,1,1,1]>(r1, w2, b2)
        [relu2] r2 = LeakyRelu(d)
        [groups] g1 = Conv<group = 2>(r2, w3, b1)
        [relu3] r3 = Relu(g1)
        [up] u = ConvTranspose(r3, w4, b1)
        [pool] m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(u)
        [flat] f = Flatten(m)
        [fc1] h = Gemm(f, w5, b5)
        [relu4] r4 = Relu(h)
        [fc2] y = Gemm<transB = 1>(r4, w6)
    }""",
        w1=uneven(8, 4, 1, 1).astype(np.float32),
        b1=weights(8),
        w2=uneven(8, 1, 3, 3)[::-1].astype(np.float32),
        b2=weights(8),
        w3=uneven(8, 4, 1, 1).astype(np.float32),
        w4=weights(8, 8, 1, 1),
        w5=weights(8 * 16, 6),
        b5=weights(1, 6),
        w6=weights(3, 6),
    )
    result = check_pass(Equalize(), unit)
    seconds = [row["second"] for row in result.details["pairs"]]
    assert seconds == ["depth", "groups", "up", "fc1", "fc2"]
    assert spread(constant(result.unit, "expand/weight"), 0) < spread(constant(unit, "w1"), 0) / 4
    assert result.details["stopped"] == {"fc2": "y is an output of the model"}


def test_dead_channels_stay_as_they_are():
    w1 = uneven(4, 3, 1, 1).astype(np.float32)
    w2 = weights(2, 4, 1, 1)
    w1[1], w2[:, 2] = 0, 0
    unit = parse(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
        [one] a = Conv(x, w1, b1)
        [relu] r = Relu(a)
        [two] y = Conv(r, w2)
    }""",
        w1=w1,
        b1=weights(4),
        w2=w2,
    )
    after = check_pass(Equalize(), unit).unit
    np.testing.assert_array_equal(constant(after, "one/weight")[1], 0)
    np.testing.assert_array_equal(constant(after, "two/weight")[:, 1], w2[:, 1])
    np.testing.assert_array_equal(constant(after, "one/weight")[2], w1[2])
    assert np.isfinite(constant(after, "one/weight")).all()


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


def clipped(size):
    """Two layers with a ReLU6 between them, on inputs `size` times as large."""
    return parse(
        """g (float[N,4] x) => (float[N,3] y) {
        [one] a = Gemm(x, w1, b1)
        [six] r = Clip(a, low, high)
        [two] y = Gemm(r, w2)
    }""",
        w1=(uneven(8, 4).T * size).astype(np.float32),
        b1=weights(8, spread=0.1),
        low=np.float32(0),
        high=np.float32(6),
        w2=weights(8, 3),
    )


def test_relu6_is_kept_unless_asked():
    result = check_pass(Equalize(), clipped(0.1))
    assert not result.modified
    assert result.details["stopped"]["one"] == "six stands behind it: ReLU6 is kept"
    assert isinstance(Equalize(relu6="replace").bound, Bounded)


def test_relu6_that_never_cuts_is_replaced():
    unit = clipped(0.01)
    result = check_pass(Equalize(relu6="replace"), unit)
    assert equations(result.unit)[1] == "r = Relu(a)"
    assert result.details["relu6"] == {"six": "replaced"}
    assert len(result.details["pairs"]) == 1
    assert result.stated is not None
    assert equations(result.stated.unit) == [
        "a = Gemm(x, w1, b1)",
        "r = Relu(a)",
        "y = Gemm(r, w2)",
    ]
    assert Equalize().apply(unit, context_for(unit)).stated is None


def test_relu6_that_the_classes_hang_on_is_refused():
    unit = clipped(20.0)
    result = check_pass(Equalize(relu6="replace"), unit)
    assert not result.modified
    assert result.details["relu6"]["six"].startswith("a ReLU would change")
    lavish = check_pass(Equalize(relu6="replace", max_disagreement=1.0), unit)
    assert lavish.details["relu6"] == {"six": "replaced"}


def test_within_one_budget_the_harmless_relu6_is_replaced_and_the_other_is_not():
    unit = parse(
        """g (float[N,4] x) => (float[N,3] y) {
        [one] a = Gemm(x, w1)
        [low6] r = Clip(a, low, high)
        [two] b = Gemm(r, w2)
        [high6] s = Clip(b, low, high)
        [three] y = Gemm(s, w3)
    }""",
        w1=weights(4, 8, spread=0.05),
        low=np.float32(0),
        high=np.float32(6),
        w2=(weights(8, 8) * 200).astype(np.float32),
        w3=weights(8, 3),
    )
    result = check_pass(Equalize(relu6="replace"), unit, context_for(unit))
    assert result.details["relu6"]["low6"] == "replaced"
    assert result.details["relu6"]["high6"].startswith("a ReLU would change")
    assert [row["second"] for row in result.details["pairs"]] == ["two"]


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


def test_a_net_without_neighbours_is_left_alone():
    unit = parse(
        "g (float[N,4] x) => (float[N,3] y) {\n[only] y = MatMul(x, w)\n}", w=weights(4, 3)
    )
    result = Equalize().apply(unit, PassContext(context_for(unit).data))
    assert result.unit is unit
    assert result.details == {
        "pairs": [],
        "stopped": {"only": "y is an output of the model"},
        "relu6": {},
    }
