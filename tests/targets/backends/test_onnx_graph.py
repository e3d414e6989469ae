from __future__ import annotations

import onnx
import pytest

from rtc.compiler.core.errors import ModelError
from rtc.targets.backends.onnx_graph import NodeIndex, drop_empty_ends, parse, signature

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[n,4] x, float[2] unused) => (float[n,3] y, int64[4] s)
<float[4,3] w = {1,2,3,4,5,6,7,8,9,1,2,3}> {
  [fc_MatMul] a = MatMul (x, w)
  [act] b = Relu (a)
  c = Identity (b)
  [left] d = Tanh (c)
  [right] e = Sigmoid (c)
  [add] y = Add (d, e)
  s = Constant <value_ints = [1, 2, 3, 4]> ()
}
"""
MODEL = onnx.parser.parse_model(TEXT)
MODEL.graph.node[0].name = "/fc/MatMul"
INDEX = NodeIndex(tuple(MODEL.graph.node))


def test_inputs_are_not_weights_and_free_sizes_go_by_name() -> None:
    made = signature(MODEL)
    assert [(spec.name, spec.dtype, spec.shape) for spec in made.inputs] == [
        ("x", "float32", ("n", 4)),
        ("unused", "float32", (2,)),
    ]
    assert [(spec.name, spec.dtype) for spec in made.outputs] == [("y", "float32"), ("s", "int64")]


@pytest.mark.parametrize(
    ("content", "code"), [(b"no model", "unreadable-model"), (b"", "empty-model")]
)
def test_bytes_that_are_no_model(content: bytes, code: str) -> None:
    with pytest.raises(ModelError) as error:
        parse(content)
    assert error.value.id == code


def test_labels_of_runtimes_lead_to_nodes() -> None:
    assert INDEX.find("/fc/MatMul") == INDEX.find("/fc/MatMul/WithoutBiases") == 0
    assert INDEX.find("b") == 1  # the tensor that it writes
    assert INDEX.find("nobody") is None
    assert INDEX.names([5, 2, 0, 2]) == ("/fc/MatMul", "c", "add")


def test_ways_through_the_graph() -> None:
    assert INDEX.producers(5) == (3, 4)
    assert INDEX.products == {0}
    assert INDEX.readers["c"] == [3, 4]
    assert INDEX.way_on(0, {1}) == (1,)
    assert INDEX.way_on(0, {5}) == ()  # it forks at c
    assert INDEX.computes([2, 1])
    assert not INDEX.computes([2, 6])


def test_empty_names_at_the_end_say_nothing() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    model.graph.node[0].input.extend(["", ""])
    drop_empty_ends(model)
    assert list(model.graph.node[0].input) == ["x", "w"]
