import numpy as np
import pytest
from check_pass import check_pass, constant, equations, parse

from rtc.passes.fold_constants import FoldConstants

STEP = FoldConstants()


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


def test_known_shapes_are_constants_and_dynamic_ones_stay():
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
    assert "n = Shape(x)" in equations(result.unit)


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
