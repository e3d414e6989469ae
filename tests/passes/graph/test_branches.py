"""Branches that constants and known sizes decide."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from check_pass import equations, parse, unit_of

from rtc.calibration.oracle import Oracle
from rtc.compiler.frontend.axes import settled
from rtc.passes.graph.branches import without_decided_branches
from rtc.passes.support.onnx_graph import named

SQUEEZE = """g (float[N,{channels},4] x) => (float[N,K] y)
        <int64 one = {{1}}, int64 place = {{1}}, int64[1] axes = {{1}}> {{
    c = Conv<kernel_shape = [1]>(x, w)
    s = Shape(c)
    n = Gather(s, place)
    alone = Equal(n, one)
    q = If(alone) <
        then_branch = then () => (float[N,4] t) {{ t = Squeeze(c, axes) }},
        else_branch = otherwise () => (float[N,M,4] e) {{ e = Identity(c) }}>
    y = Flatten(q)
}}"""


def run(unit, *shape):
    """Random inputs, and what the model makes of them."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with Oracle(unit.onnx.proto) as oracle:
        return x, oracle.run(x)["y"]


@pytest.mark.parametrize(("filters", "op"), [(1, "Squeeze"), (2, "Identity")])
def test_a_squeeze_of_an_axis_whose_size_the_exporter_did_not_know(filters, op):
    unit = parse(SQUEEZE.format(channels=3), w=np.ones((filters, 3, 1), np.float32))
    found = without_decided_branches(unit)
    ops = [node.op_type for node in onnx.load_model_from_string(found.onnx.proto).graph.node]
    assert ops == ["Conv", "Shape", "Gather", "Equal", op, "Flatten"]
    x, y = run(found, 2, 3, 4)
    np.testing.assert_allclose(y, np.tile(x.sum(axis=1), filters), rtol=1e-5)


def test_branches_within_branches_and_their_own_names():
    """Names of one branch mean something else in another; constants move out with it."""
    unit = parse("""g (float[N,4] x) => (float[N,4] y) <bool yes = {1}, bool no = {0}> {
        a = If(yes) <
            then_branch = f () => (float[N,4] p) <float[1] k = {2}> {
                i = If(no) <
                    then_branch = g () => (float[N,4] u) { u = Neg(x) },
                    else_branch = h () => (float[N,4] v) { m = Mul(x, k) v = Abs(m) }>
                p = Relu(i)
            },
            else_branch = j () => (float[N,4] q) { q = Sqrt(x) }>
        b = If(no) <
            then_branch = l () => (float[N,4] p) { p = Neg(a) },
            else_branch = m () => (float[N,4] q) <float[1] k = {3}> { i = Mul(a, k) q = Add(i, x) }>
        y = Identity(b)
    }""")
    found = without_decided_branches(unit)
    operators = [line.split(" = ")[1].split("(")[0] for line in equations(found)]
    assert operators == ["Mul", "Abs", "Relu", "Mul", "Add", "Identity"]
    np.testing.assert_array_equal(run(found, 2, 4)[1], run(unit, 2, 4)[1])
    onnx.checker.check_model(onnx.load_model_from_string(found.onnx.proto), full_check=True)


# A size taken and compared with Constant nodes of every form, as exporters write it.
CONDITIONS = {
    "tensors": """place = Constant<value = int64 {1}>() n = Gather(s, place)
        one = Constant<value = int64 {1}>() alone = Equal(n, one)""",
    "numbers": """place = Constant<value_int = 1>() n = Gather(s, place)
        one = Constant<value_int = 1>() alone = Equal(n, one)""",
    "lists": """from = Constant<value_ints = [1]>() to = Constant<value_ints = [2]>()
        n = Slice(s, from, to) one = Constant<value_ints = [1]>() both = Equal(n, one)
        alone = Squeeze(both)""",
    "floats": """place = Constant<value_int = 1>() i = Gather(s, place) n = Cast<to = 1>(i)
        half = Constant<value_float = 1.5>() alone = Less(n, half)""",
}


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
@pytest.mark.parametrize(("filters", "op"), [(1, "Squeeze"), (2, "Identity")])
def test_sizes_compared_with_constant_nodes_decide(condition, filters, op):
    """Through all of what is done with a model from outside; the conditions read a free batch."""
    unit = named(
        parse(
            f"""g (float[N,3,4] x) => (float[N,2] y) {{
        c = Conv<kernel_shape = [1]>(x, w)
        d = Relu(c)
        s = Shape(d)
        {condition}
        q = If(alone) <
            then_branch = f () => (float[N,4] t) {{
                axes = Constant<value_ints = [1]>() t = Squeeze(d, axes) }},
            else_branch = g () => (float[N,M,4] e) {{ e = Identity(d) }}>
        f = Flatten(q)
        y = MatMul(f, v)
    }}""",
            opsets='"" : 18',
            w=np.ones((filters, 3, 1), np.float32),
            v=np.ones((4 * filters, 2), np.float32),
        )
    )
    samples = np.random.default_rng(0).standard_normal((16, 3, 4)).astype(np.float32)
    found = settled(unit, samples, 4).unit
    kinds = [node.op_type for node in onnx.load_model_from_string(found.onnx.proto).graph.node]
    assert op in kinds
    assert "If" not in kinds
    x, y = run(found, 2, 3, 4)
    summed = np.maximum(x.sum(axis=1), 0).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(y, np.tile(filters * summed, 2), rtol=1e-5)


def test_a_size_that_a_computed_shape_gives_decides():
    """A view whose sizes are taken from the tensor's own shape and multiplied."""
    unit = parse(
        """g (float[N,2,3,4] x) => (float[N,K] y) {
        s = Shape(x)
        zero = Constant<value_int = 0>() n = Gather(s, zero)
        from = Constant<value_ints = [2]>() to = Constant<value_ints = [4]>()
        last = Slice(s, from, to)
        rest = ReduceProd<keepdims = 1>(last)
        two = Constant<value_ints = [2]>()
        axes = Constant<value_ints = [0]>() first = Unsqueeze(n, axes)
        wanted = Concat<axis = 0>(first, two, rest)
        v = Reshape(x, wanted)
        size = Shape<start = 2>(v)
        twelve = Constant<value_ints = [12]>()
        same = Equal(size, twelve)
        q = If(same) <
            then_branch = f () => (float[N,2,12] t) { t = Relu(v) },
            else_branch = g () => (float[N,24] e) { e = Flatten(v) }>
        y = Flatten(q)
    }""",
        opsets='"" : 18',
    )
    found = without_decided_branches(unit)
    assert "If" not in " ".join(equations(found))
    x, y = run(found, 2, 2, 3, 4)
    np.testing.assert_array_equal(y, np.maximum(x, 0).reshape(2, 24))


def test_nodes_of_two_branches_that_share_a_name():
    branch = "then_branch = f () => (float[N,4] p) { [n] q = Abs(%s) [m] p = Sqrt(q) }"
    other = "else_branch = h () => (float[N,4] u) { [n] u = Neg(x) }"
    unit = named(
        parse(
            f"""g (float[N,4] x) => (float[N,2] y) <bool yes = {{1}}> {{
        [n] r = Relu(x)
        a = If(yes) < {branch % "r"}, {other} >
        b = If(yes) < {branch % "a"}, {other} >
        y = MatMul(b, w)
    }}""",
            w=np.ones((4, 2), np.float32),
        )
    )
    samples = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    found = onnx.load_model_from_string(settled(unit, samples, 4).unit.onnx.proto)
    names = [node.name for node in found.graph.node]
    assert len(names) == len(set(names)) == 6
    onnx.checker.check_model(found, full_check=True)


def test_nodes_of_a_branch_keep_attributes_of_every_kind():
    """A number, lists of numbers, a tensor, a text, and a loop whose own input has a known name."""
    unit = parse(
        """g (float[N,3,4] x) => (float[N,2] y) <bool yes = {1}> {
        q = If(yes) <
            then_branch = f () => (float[N,2] t) <int64[1] last = {3}, int64 turns = {2}> {
                c = Conv<kernel_shape = [1]>(x, w)
                s = Squeeze<axes = [1]>(c)
                third = Constant<value = int64[1] {2}>()
                i = Concat<axis = 0>(last, third)
                g = Gather<axis = 1>(s, i)
                text = Constant<value_string = "of no use">()
                t = Loop(turns, yes, g) <
                    body = b (int64 turn, bool more, float[N,2] h) => (bool go, float[N,2] n) {
                        go = Identity(more) n = Add(h, g) }> },
            else_branch = e () => (float[N,2] u) { u = Constant<value = float[1,2] {0, 0}>() }>
        y = Relu(q)
    }""",
        opsets='"" : 12',
        w=np.ones((1, 3, 1), np.float32),
    )
    found = without_decided_branches(unit)
    model = onnx.load_model_from_string(found.onnx.proto)
    onnx.checker.check_model(model, full_check=True)
    assert "If" not in {node.op_type for node in model.graph.node}
    x, y = run(found, 2, 3, 4)
    np.testing.assert_allclose(y, np.maximum(3 * x.sum(axis=1)[:, [3, 2]], 0), rtol=1e-5)


def test_a_branch_that_gives_what_was_there_and_one_thing_twice():
    unit = parse("""g (float[N,4] x) => (float[N,4] y) <bool yes = {1}> {
        r = Relu(x)
        a, b, c = If(yes) <
            then_branch = f () => (float[N,4] t, float[N,4] t, float[N,4] r) { t = Neg(r) },
            else_branch = h () => (float[N,4] u, float[N,4] v, float[N,4] w) {
                u = Neg(x) v = Abs(x) w = Abs(x) }>
        y = Sum(a, b, c)
    }""")
    found = without_decided_branches(unit)
    assert "If" not in " ".join(equations(found))
    x, y = run(found, 2, 4)
    np.testing.assert_array_equal(y, -np.maximum(x, 0))


def test_what_the_samples_or_a_free_size_decide_stays():
    unit = parse("""g (float[N,4] x) => (float[N,4] y) <int64 zero = {0}, float none = {0}> {
        s = Shape(x)
        n = Gather(s, zero)
        many = Greater(n, zero)
        m = ReduceMax<keepdims = 0>(x)
        large = Greater(m, none)
        a = If(many) <
            then_branch = f () => (float[N,4] p) { p = Neg(x) },
            else_branch = g () => (float[N,4] q) { q = Abs(x) }>
        y = If(large) <
            then_branch = f () => (float[N,4] p) { p = Neg(a) },
            else_branch = g () => (float[N,4] q) { q = Abs(a) }>
    }""")
    found = without_decided_branches(unit)
    assert sum("If" in line for line in equations(found)) == 2


def test_a_model_without_branches_is_as_it_was():
    unit = unit_of(parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }").onnx.proto)
    assert without_decided_branches(unit) is unit
