import numpy as np
import pytest
from check_pass import check_pass, constant, equations, parse

from rtc.calibration.oracle import Oracle
from rtc.passes.graph.fold_constants import FoldConstants
from rtc.passes.graph.sizes import Size, broadcast

STEP = FoldConstants()
N, M = Size(1, ("N",)), Size(1, ("M",))


def test_what_depends_on_constants_is_computed():
    unit = parse("""g (float[N,4] x) => (float[N,4] y) <float[4] w = {1, 2, 3, 4}> {
        two = Constant<value_float = 2.0>()
        a = Mul(w, two)
        b = Neg(a)
        y = Add(x, b)
    }""")
    result = check_pass(STEP, unit)
    assert equations(result.unit) == ["y = Add(x, b)"]
    np.testing.assert_array_equal(constant(result.unit, "b"), [-2, -4, -6, -8])
    assert result.details["folded"] == 3


def test_constant_nodes_are_initialisers_where_there_is_nothing_else_to_fold():
    unit = parse("""g (float[N,4] x) => (float[N,4] y, float c) {
        two = Constant<value_float = 2.0>()
        c = Constant<value_float = 3.0>()
        y = Mul(x, two)
    }""")
    result = STEP.apply(unit, None)
    assert not STEP.apply(result.unit, None).modified
    assert equations(result.unit) == ["c = Constant()", "y = Mul(x, two)"]
    assert result.details["folded"] == 1
    assert result.details["left"] == {"Constant_c": "its output is the model's"}


def test_a_shape_with_a_free_batch_is_a_constant_of_a_reshape():
    unit = parse("""g (float[N,2,3] x) => (float[N,M] y, int64[A] s) <int64 one = {1}> {
        n = Shape<start = 0, end = 1>(x)
        w = Transpose<perm = [2,1,0]>(x)
        r = Relu(x)
        s = Shape<start = 1>(r)
        minus = Constant<value_ints = [-1]>()
        to = Concat<axis = 0>(n, minus)
        y = Reshape(x, to)
    }""")
    result = check_pass(STEP, unit)
    assert equations(result.unit) == ["r = Relu(x)", "s = Shape(r)", "y = Reshape(x, to/fixed)"]
    assert constant(result.unit, "to/fixed").tolist() == [0, 6]


def test_static_shape_folds():
    unit = parse("""g (float[2,3] x) => (float[2,3] y) {
        r = Relu(x)
        s = Shape(r)
        y = Reshape(x, s)
    }""")
    result = STEP.apply(unit, None)
    assert equations(result.unit) == ["y = Reshape(x, s)"]
    assert constant(result.unit, "s").tolist() == [2, 3]


@pytest.mark.parametrize("op", ["ConstantOfShape(size)", "Expand(one, size)"])
def test_a_bomb_is_not_set_off(op):
    unit = parse(f"""g (float[N,1] x) => (float[N,1] y)
    <int64[2] size = {{4000000, 1000000}}, float one = {{1.0}}, int64[2] axes = {{0, 1}}> {{
        big = {op}
        sum = ReduceSum<keepdims = 0>(big, axes)
        y = Mul(x, sum)
    }}""")
    result = STEP.apply(unit, None)
    assert not result.modified
    assert "its result of 16000000 MB is more than 16 MB" in result.details["left"].values()


def test_a_transposed_weight_folds_although_it_is_large():
    step = FoldConstants(max_mb=1e-6)
    unit = parse(
        """g (float[N,8] x) => (float[N,4] y) {
        t = Transpose<perm = [1, 0]>(w)
        y = MatMul(x, t)
    }""",
        w=np.ones((4, 8), np.float32),
    )
    assert equations(check_pass(step, unit).unit) == ["y = MatMul(x, t)"]


def test_random_and_quantised_constants_stay():
    unit = parse("""g (float[N,4] x) => (float[N,4] y)
    <int8[4] w = {1,2,3,4}, float s = {0.5}, float[4] o = {1,1,1,1}> {
        d = DequantizeLinear(w, s)
        r = RandomNormalLike(o)
        a = Add(x, d)
        b = Mul(r, r)
        y = Add(a, b)
    }""")
    assert not STEP.apply(unit, None).modified


def test_a_constant_output_stays():
    unit = parse("""g (float[N,4] x) => (float[N,4] y, float[4] k) <float[4] w = {1,2,3,4}> {
        k = Neg(w)
        y = Add(x, k)
    }""")
    result = check_pass(STEP, unit)
    assert result.details["left"] == {"Neg_k": "its output is the model's"}


# What exporters write of x.view(b, …), x.flatten(1), x.expand(b, -1, -1): each with the shape of x.
# ruff: noqa: E501 a model a line
TARGETS = {
    "view(b, c*h*w)": ("Mul(c, h)", "Mul(m, w)", "k1 = Unsqueeze(k, first) t = Concat<axis = 0>(n1, k1)", [0, 48]),
    "view(b, -1)": ("Mul(c, h)", "Mul(m, w)", "t = Concat<axis = 0>(n1, minus)", [0, 48]),
    "view(-1, w)": ("Mul(n, c)", "Mul(m, h)", "k1 = Unsqueeze(k, first) w1 = Unsqueeze(w, first) t = Concat<axis = 0>(k1, w1)", [-1, 4]),
    "view(b*c, h*w)": ("Mul(n, c)", "Mul(h, w)", "m1 = Unsqueeze(m, first) k1 = Unsqueeze(k, first) t = Concat<axis = 0>(m1, k1)", [-1, 16]),
    "view(b, c, -1)": ("Mul(c, h)", "Mul(m, w)", "c1 = Unsqueeze(c, first) t = Concat<axis = 0>(n1, c1, minus)", [0, 3, 16]),
    "view(b*c // 3, -1)": ("Mul(n, c)", "Div(m, c)", "k1 = Unsqueeze(k, first) t = Concat<axis = 0>(k1, minus)", [0, 48]),
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_free_batch_and_known_sizes_decide_is_a_constant(name):
    m, k, target, expected = TARGETS[name]
    unit = parse(f"""g (float[N,3,4,4] x) => (float[A,B] y) <int64[1] first = {{0}}, int64[1] minus = {{-1}},
    int64 zero = {{0}}, int64 one = {{1}}, int64 two = {{2}}, int64 three = {{3}}> {{
        r = Relu(x)
        s = Shape(r)
        n = Gather(s, zero) c = Gather(s, one) h = Gather(s, two) w = Gather(s, three)
        n1 = Unsqueeze(n, first)
        m = {m} k = {k}
        {target}
        f = Reshape(r, t)
        y = Flatten(f)
    }}""")
    result = check_pass(STEP, unit)
    assert equations(result.unit) == ["r = Relu(x)", "f = Reshape(r, t/fixed)", "y = Flatten(f)"]
    assert constant(result.unit, "t/fixed").tolist() == expected


def test_shapes_found_on_the_way_fold_what_comes_after():
    """Each Reshape's shape decides the next one's: windows of an image, and back."""
    unit = parse("""g (float[N,4,4,2] x) => (float[N,32] y) <int64 zero = {0}, int64 three = {3}, int64[1] first = {0},
    int64[1] two = {2}, int64[1] minus = {-1}, int64[1] four = {4}, int64 area = {4}, int64[1] all = {32}> {
        s = Shape(x)
        n = Gather(s, zero) c = Gather(s, three)
        n1 = Unsqueeze(n, first) c1 = Unsqueeze(c, first)
        to = Concat<axis = 0>(n1, two, two, two, two, c1)
        a = Reshape(x, to)
        p = Transpose<perm = [0,1,3,2,4,5]>(a)
        to2 = Concat<axis = 0>(minus, four, c1)
        b = Reshape(p, to2)
        s2 = Shape(b)
        windows = Gather(s2, zero)
        batch = Div(windows, area)
        batch1 = Unsqueeze(batch, first)
        to3 = Concat<axis = 0>(batch1, all)
        y = Reshape(b, to3)
    }""")
    result = check_pass(STEP, unit)
    assert equations(result.unit) == [
        "a = Reshape(x, to/fixed)",
        "p = Transpose(a)",
        "b = Reshape(p, to2)",
        "y = Reshape(b, to3/fixed)",
    ]
    assert constant(result.unit, "to3/fixed").tolist() == [-1, 32]


def test_a_shape_with_two_unknown_sizes_stays_computed():
    unit = parse("""g (float[N,3,H,W] x) => (float[N,H,W,3] y) <int64[4] order = {0, 2, 3, 1}> {
        s = Shape(x)
        to = Gather(s, order)
        y = Reshape(x, to)
    }""")
    assert not STEP.apply(unit, None).modified


def test_a_size_that_comes_in_at_the_same_place_is_copied():
    unit = parse("""g (float[N,3,H,4] x) => (float[N,A,B] y) <int64[1] minus = {-1}> {
        n = Shape<start = 0, end = 1>(x)
        c = Shape<start = 1, end = 2>(x)
        to = Concat<axis = 0>(n, c, minus)
        y = Reshape(x, to)
    }""")
    result = STEP.apply(unit, None)
    assert constant(result.unit, "to/fixed").tolist() == [0, 3, -1]


def test_a_size_times_nothing_or_of_an_empty_tensor_is_not_copied():
    """A zero in a Reshape's shape would mean something else."""
    unit = parse("""g (float[N,0,4] x) => (float[N,A] y) <int64[1] minus = {0}> {
        n = Shape<start = 0, end = 1>(x)
        c = Shape<start = 1, end = 2>(x)
        to = Concat<axis = 0>(n, c)
        y = Reshape<allowzero = 1>(x, to)
    }""")
    assert "to/fixed" not in " ".join(equations(STEP.apply(unit, None).unit))


def test_what_an_exporter_writes_of_an_expand():
    unit = parse("""g (float[N,3,4] x) => (float[N,4,4] y) <float[1,1,4] token = {1,2,3,4}, int64 zero = {0},
    int64[1] first = {0}, int64[2] rest = {-1, -1}, int64[1] three = {3}, int64[3] minus = {-1, -1, -1}> {
        s = Shape(x)
        n = Gather(s, zero)
        n1 = Unsqueeze(n, first)
        to = Concat<axis = 0>(n1, rest)
        ones = ConstantOfShape<value = int64[1] {1}>(three)
        same = Equal(to, minus)
        wide = Where(same, ones, to)
        t = Expand(token, wide)
        c = Concat<axis = 1>(t, x)
        s2 = Shape(c)
        to2 = Slice(s2, first, three)
        y = Reshape(c, to2)
    }""")
    result = check_pass(STEP, unit)
    assert equations(result.unit)[-1] == "y = Reshape(c, to2/fixed)"
    assert constant(result.unit, "to2/fixed").tolist() == [0, 4, 4]


def test_what_another_operator_gives_has_no_type_and_stops_nobody():
    """A constant that has just been found is read beside it."""
    unit = parse(
        """g (float[N,3,4] x) => (float[N,A] y) <float k = {2}> {
        a = Neg(k)
        h = foreign.Bar(x)
        m = Mul(h, a)
        y = Flatten(m)
    }""",
        opsets='"" : 17, "foreign" : 1',
    )
    found = FoldConstants().apply(unit, None)
    assert [line.split(" = ")[1] for line in equations(found.unit)] == [
        "Bar(x)", "Mul(h, a)", "Flatten(m)",
    ]  # fmt: skip


@pytest.mark.parametrize("to", [[5, 4], [5, 1], [2, 5, 4]])
def test_a_free_size_that_is_expanded_to_a_number_is_that_number(to):
    """It was one: nothing else would do."""
    unit = parse(
        """g (float[N,4] x) => (float[?,4] y) {
        r = Relu(x)
        e = Expand(r, to)
        expanded = Shape<start = -2, end = -1>(e)
        given = Shape<end = 1>(r)
        same = Equal(expanded, given)
        one = Cast<to = 1>(same)
        y = Add(r, one)
    }""",
        to=np.array(to),
    )
    folded = FoldConstants().apply(unit, None).unit
    x = np.ones((1, 4), np.float32)
    for each in (unit, folded):
        with Oracle(each.onnx.proto) as oracle:
            np.testing.assert_array_equal(oracle.run(x)["y"], x)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(1, N, N), (N, 1, N), (N, N, N), (N, 5, 5), (5, N, 5), (None, 5, 5), (N, M, None), (N, 0, 0)],
)
def test_the_size_that_two_give(a, b, expected):
    assert broadcast(a, b) == expected
