import numpy as np
import onnx
import pytest
from check_pass import equations, parse, unit_of

from rtc.compiler.core.errors import ModelError
from rtc.passes.support.onnx_graph import carrying, named, read, write


def test_reading_and_writing_keeps_the_model():
    unit = parse("""g (float[N,2] x) => (float[N,2] y) <float[2] w = {1, 2}> {
        [plus] a = Add(x, w)
        [minus] y = Neg(a)
    }""")
    model = onnx.load_model_from_string(unit.onnx.proto)
    onnx.helper.set_model_props(model, {"author": "somebody"})
    model.doc_string = "about it"
    unit = unit_of(model.SerializeToString())
    again = write(read(unit), unit)
    kept = onnx.load_model_from_string(again.onnx.proto)
    assert equations(again) == equations(unit)
    assert again.signature == unit.signature
    assert [(each.key, each.value) for each in kept.metadata_props] == [("author", "somebody")]
    assert kept.doc_string == "about it"
    assert write(read(again), again).digest == again.digest


def test_nodes_get_names_of_their_own():
    unit = parse("""g (float[N,2] x) => (float[N,2] y) {
        [twice] a = Neg(x)
        [twice] b = Neg(a)
        y = Relu(b)
    }""")
    graph = onnx.load_model_from_string(named(unit).onnx.proto).graph
    assert [node.name for node in graph.node] == ["twice", "twice_1", "Relu_y"]
    assert named(named(unit)).digest == named(unit).digest


def test_initialisers_listed_as_inputs_are_none():
    unit = parse("g (float[N,2] x) => (float[N,2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    model = onnx.load_model_from_string(unit.onnx.proto)
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [2]))
    assert [each.name for each in read(unit_of(model.SerializeToString())).inputs] == ["x"]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("value = float[2] {1, 2}", np.array([1, 2], np.float32)),
        ("value_float = 1.5", np.array(1.5, np.float32)),
        ("value_floats = [1.5, 2.0]", np.array([1.5, 2], np.float32)),
        ("value_int = 7", np.array(7)),
        ("value_ints = [7, 8]", np.array([7, 8])),
        ('value_string = "one"', np.array("one", object)),
        ('value_strings = ["one", "two"]', np.array(["one", "two"], object)),
    ],
)
def test_a_constant_node_is_an_initialiser_in_whatever_form_it_is_written(form, expected):
    body = f"c = Constant<{form}>() s = Shape(c) y = Identity(s)"
    graph = read(parse(f"g (float[N,2] x) => (int64[A] y) {{ {body} }}"))
    assert [node.op for node in graph.nodes] == ["Shape", "Identity"]
    found = graph.nodes[0].inputs[0].values
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found.astype(str), expected.astype(str))


@pytest.mark.parametrize("places", [[1, 5], [[0, 1], [1, 2]]], ids=["in order", "by axis"])
def test_a_sparse_constant_is_written_out(places):
    values = onnx.helper.make_tensor("v", onnx.TensorProto.FLOAT, [2], [3.0, 4.0])
    indices = onnx.numpy_helper.from_array(np.array(places), "i")
    sparse = onnx.helper.make_sparse_tensor(values, indices, [2, 3])
    unit = parse("g (float[2,3] x) => (float[2,3] y) { c = Identity(x) y = Add(x, c) }")
    model = onnx.load_model_from_string(unit.onnx.proto)
    model.graph.node[0].CopyFrom(
        onnx.helper.make_node("Constant", [], ["c"], sparse_value=sparse),
    )
    (add,) = read(unit_of(model.SerializeToString())).nodes
    np.testing.assert_array_equal(add.inputs[1].values, [[0, 3, 0], [0, 0, 4]])


def test_a_constant_node_that_is_an_output_stays():
    unit = parse(
        "g (float[2] x) => (float[2] y, float c) { c = Constant<value_float=2.0>() y = Mul(x, c) }"
    )
    assert [node.op for node in read(unit).nodes] == ["Constant", "Mul"]


def test_control_flow_is_refused_by_name():
    unit = parse("""g (float[2] x, bool c) => (float[2] y) {
        [choice] y = If(c) <
            then_branch = a () => (float[2] p) { p = Neg(x) },
            else_branch = b () => (float[2] q) { q = Relu(x) }>
    }""")
    with pytest.raises(ModelError) as error:
        read(unit)
    assert error.value.where == "choice"
    assert error.value.id == "control-flow"


def test_local_functions_are_refused_by_name():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20, "own" : 1]>
        g (float[2] x) => (float[2] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["" : 20]>
        twice (a) => (b) { b = Add(a, a) }""")
    with pytest.raises(ModelError) as error:
        read(unit_of(model.SerializeToString()))
    assert error.value.seen == "twice"


def test_a_node_without_its_inputs_is_a_model_error():
    unit = parse("g (float[N,2] x) => (float[N,2] y) { y = Transpose() }")
    with pytest.raises(ModelError) as error:
        read(unit)
    assert error.value.id == "bad-shapes"


def test_stale_shapes_are_not_read():
    unit = parse("""g (float[N,3,8,8] x) => (float[1,3,1,1] y) <float[1,3,8,8] a> {
        a = Relu(x)
        y = GlobalAveragePool(a)
    }""")
    graph = read(unit)
    assert graph.nodes[0].outputs[0].shape == ["N", 3, 8, 8]
    model = onnx.load_model_from_string(write(graph, unit).onnx.proto)
    shapes = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert shapes == ["N", 3, 1, 1]


def test_what_carries_the_samples_and_what_their_sizes():
    graph = read(
        parse("""g (float[N,3,8,8] x) => (float[N,3,16,16] y) <float[1] two = {2}> {
        [relu] a = Relu(x)
        [sizes] s = Shape(a)
        [floats] f = Cast<to = 1>(s)
        [double] d = Mul(f, two)
        [whole] w = Cast<to = 7>(d)
        [constant] c = Neg(two)
        [scaled] b = Mul(a, c)
        [enlarged] y = Resize<mode = "nearest">(b, , , w)
    }""")
    )
    assert carrying(graph) == {"relu", "scaled", "enlarged"}


def test_a_model_from_outside_is_not_believed_what_it_states():
    unit = parse(
        """g (float[N,4] x) => (float[N,4] y) <float[1,4] a, float[1,4] b> {
        [gelu] a = com.microsoft.Gelu(x)
        [relu] b = Relu(a)
        [minus] y = Neg(b)
    }""",
        opsets='"" : 17, "com.microsoft" : 1',
    )
    made = named(unit)
    states = onnx.load_model_from_string(made.onnx.proto).graph.value_info
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in states
    }
    assert shapes == {"a": ["N", 4], "b": ["N", 4]}
    assert named(made).digest == made.digest
