from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from rtc.compiler.core.protos import bodies, byte_size, is_outside, named_tensors, nodes, tensors

TEXT = """
<ir_version: 10, opset_import: ["" : 18, "mine" : 1]>
g (float[3] x, bool c) => (float[3] y) <float[3] w = {1, 2, 3}> {
  k = Constant <value = float[2] {4, 5}> ()
  f = mine.twice (x)
  y = If (c) <
    then_branch = t () => (float[3] u) { u = Add (f, w) },
    else_branch = e () => (float[3] v) { z = Constant <value = float[1] {6}> () v = Mul (f, z) }
  >
}
<domain: "mine", opset_import: ["" : 18]>
twice (a) => (b) { two = Constant <value = float {2}> () b = Mul (a, two) }
"""
MODEL = onnx.parser.parse_model(TEXT)


def test_walks_reach_branches_and_functions() -> None:
    assert [body.name for body in bodies(MODEL)] == ["g", "e", "t", "twice"] or {
        body.name for body in bodies(MODEL)
    } == {"g", "t", "e", "twice"}
    kinds = [node.op_type for node in nodes(MODEL)]
    assert sorted(kinds) == sorted(
        ["Constant", "twice", "If", "Add", "Constant", "Mul", "Constant", "Mul"]
    )


def test_constants_wherever_they_stand() -> None:
    assert {name for name, _ in named_tensors(MODEL)} == {"w", "k", "z", "two"}
    assert len(list(tensors(MODEL))) == 4


@pytest.mark.parametrize(
    ("kind", "dims", "size"),
    [(TensorProto.FLOAT, [2, 3], 24), (TensorProto.INT4, [5], 3), (TensorProto.BOOL, [7], 7)],
)
def test_sizes_in_bytes(kind: int, dims: list[int], size: int) -> None:
    assert byte_size(TensorProto(data_type=kind, dims=dims)) == size


def test_what_has_no_size_says_so() -> None:
    for tensor in (
        TensorProto(data_type=TensorProto.STRING, dims=[1]),
        TensorProto(dims=[1]),
        TensorProto(data_type=TensorProto.FLOAT, dims=[-1]),
    ):
        with pytest.raises(ValueError, match="has no size"):
            byte_size(tensor)


def test_values_in_another_file() -> None:
    inside = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    outside = TensorProto(data_location=TensorProto.EXTERNAL)
    assert (is_outside(inside), is_outside(outside)) == (False, True)
