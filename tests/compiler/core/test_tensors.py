"""What is known of every tensor's type: found anew, whatever the file states."""

import onnx
import pytest

from rtc.compiler.core.tensors import (
    TensorType,
    known_shapes,
    tensor_types,
    typed,
    types_at,
    types_of,
)

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def parsed_types(text, opsets='"" : 17', **options):
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]>\n{text}")
    typed(model, **options)
    return tensor_types(model.graph)


def test_what_the_file_states_of_inner_tensors_is_not_believed():
    known = parsed_types("""g (float[N,3,8,8] x) => (float[N,3,4,4] y) <float[1,3,8,8] a> {
        a = Relu(x)
        y = AveragePool<kernel_shape = [2,2], strides = [2,2]>(a)
    }""")
    assert known["a"] == TensorType(FLOAT, ("N", 3, 8, 8))


def test_values_of_shape_arithmetic_are_followed():
    known = parsed_types("""g (float[N,3,8,8] x) => (float[N,K] y) <int64[1] rest = {192}> {
        batch = Shape<end = 1>(x)
        to = Concat<axis = 0>(batch, rest)
        r = Reshape(x, to)
        y = Relu(r)
    }""")
    assert known["to"] == TensorType(INT64, (2,))
    assert known["r"] == TensorType(FLOAT, ("N", 192))


@pytest.mark.parametrize(
    ("stated", "expected"),
    [("1,12", ("N", 12)), ("N,12", ("N", 12)), ("N,7", ("N", 12)), ("M,K", ("N", 12))],
)
def test_a_stale_shape_of_an_output_gives_way(stated, expected):
    known = parsed_types(f"g (float[N,3,4] x) => (float[{stated}] y) {{ y = Flatten(x) }}")
    assert known["y"].shape == expected


@pytest.mark.parametrize(
    ("stated", "expected"), [("1,4", ("N", 4)), ("N,4", ("N", 4)), ("M,4", ("M", 4))]
)
def test_a_batch_of_one_is_stale_where_the_input_is_free_and_nobody_knows(stated, expected):
    known = parsed_types(f"""g (float[N,8] x, int64[2] to) => (float[{stated}] y) {{
        y = Reshape(x, to)
    }}""")
    assert known["y"].shape == expected


def test_a_first_axis_of_which_nothing_is_said_is_not_the_batch():
    known = parsed_types("""g (float[N,8] x) => (int64[?,2] y) {
        found = NonZero(x)
        y = Transpose(found)
    }""")
    assert known["y"].shape == ("", 2)


@pytest.mark.parametrize("trusting", [False, True])
def test_operators_that_onnx_does_not_know_are_asked_of_the_runtime(trusting):
    known = parsed_types(
        """g (float[N,8] x) => (float[N,8] y) {
        g = com.microsoft.Gelu(x)
        s = com.microsoft.QuickGelu(g)
        r = Relu(s)
        y = Neg(r)
    }""",
        '"" : 17, "com.microsoft" : 1',
        trusting=trusting,
    )
    assert known["s"] == known["r"] == TensorType(FLOAT, ("N", 8))


def test_one_that_nobody_knows_leaves_its_readers_unknown():
    known = parsed_types(
        """g (float[N,8] x) => (float[N,8] y) <float[N,8] a> {
        r = Relu(x)
        a = own.Thing(r)
        b = Neg(a)
        y = Relu(b)
    }""",
        '"" : 17, "own" : 1',
    )
    assert known["r"].shape == ("N", 8)
    assert not {"a", "b"} & known.keys()
    assert known["y"] == TensorType(FLOAT, ("N", 8))


def test_a_rank_that_the_runtime_does_not_tell_is_not_taken_for_a_scalars():
    known = parsed_types(
        """g (float[N,8] x, int64[K] to) => (float[N,8] y) {
        r = Reshape(x, to)
        g = com.microsoft.Gelu(r)
        y = Reshape(g, to)
    }""",
        '"" : 17, "com.microsoft" : 1',
    )
    assert known["g"] == TensorType(FLOAT, None)


def test_tensors_of_branches_are_told_and_what_the_file_states_of_them_is_not_believed():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,8] x, bool c) => (float[N,8] y) {
            y = If (c) <
                then_branch = t () => (float[N,8] a) <float[1,3] r> { r = Relu(x) a = Neg(r) },
                else_branch = e () => (float[N,8] b) { b = Relu(x) }
            >
        }""")
    before = model.SerializeToString(deterministic=True)
    for trusting in (False, True):
        assert types_of(model, trusting=trusting)["r"] == TensorType(FLOAT, ("N", 8))
    assert model.SerializeToString(deterministic=True) == before


def test_a_batch_is_written_into_the_axes_that_bear_its_name():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 17, "own" : 1]>
        g (float[N,8] x) => (float[N,4] y, float[K,4] z) {
            r = Relu(x)
            y, z = own.Thing(r)
        }""")
    known = types_at(model, 6)
    assert known["r"].shape == (6, 8)
    assert known["y"].shape == (6, 4)
    assert known["z"].shape == ("K", 4)
    assert known_shapes(known).keys() == {"x", "r", "y"}
