import onnx
import pytest
from check_pass import equations, parse, unit_of

from rtc.compiler.core.errors import ModelError
from rtc.passes.graph import named, read, write


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
