"""`rtc inspect` of ONNX files that rtc would not compile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

BRANCHES = """
<ir_version: 10, opset_import: ["" : 18, "own" : 2]>
g (bool c, float[N,-1] x, int64 n, string[2] names) => (float[N,4] y, float z)
<float[4] k = {1, 2, 3, 4}>
{
  y = If (c) <
    then_branch = t () => (float[N,4] a) {
      w = Constant<value = float[4] {1, 2, 3, 4}>()
      a = Add(x, w)
    },
    else_branch = e () => (float[N,4] b) { b = own.scaled(x) }
  >
  z = Constant<value_float = 1.5>()
}
<domain: "own", opset_import: ["" : 18]>
scaled (x) => (y) { s = Constant<value_floats = [1.0, 2.0]>() y = Mul(x, s) }
"""


def document(rtc: Any, path: Path) -> dict[str, Any]:
    done = rtc("inspect", path, "--json")
    assert done.code == 0, done.err
    assert rtc("inspect", path, "--layers").code == 0
    found: dict[str, Any] = done.document
    return found


def test_branches_functions_and_every_type_are_shown(rtc, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.parser.parse_model(BRANCHES).SerializeToString())
    found = document(rtc, path)
    assert found["parameters"] == {"float": 4 + 4 + 1 + 2}
    assert found["operators"] == {"Constant": 3, "If": 1, "Add": 1, "scaled": 1, "Mul": 1}
    assert found["functions"] == ["own::scaled"]
    assert found["domains"] == {"ai.onnx": 18, "own": 2}
    kinds = [(side["dtype"], side["shape"]) for side in found["signature"]["inputs"]]
    assert kinds == [("bool", []), ("float32", ["N", "dim1"]), ("int64", []), ("string", [2])]


def test_sequences_optionals_and_missing_shapes_are_shown(rtc, tmp_path) -> None:
    h = onnx.helper
    floats = h.make_tensor_type_proto(TensorProto.BFLOAT16, ["N"])
    inputs = [
        h.make_value_info("s", h.make_sequence_type_proto(floats)),
        h.make_value_info("o", h.make_optional_type_proto(floats)),
        h.make_tensor_value_info("bare", TensorProto.FLOAT16, None),
    ]
    node = h.make_node("SequenceLength", ["s"], ["y"])
    output = h.make_tensor_value_info("y", TensorProto.INT64, [])
    onnx.save(h.make_model(h.make_graph([node], "g", inputs, [output])), tmp_path / "m.onnx")
    sides = document(rtc, tmp_path / "m.onnx")["signature"]["inputs"]
    assert [side["dtype"] for side in sides] == [
        "sequence(bfloat16)",
        "optional(bfloat16)",
        "float16",
    ]
    assert sides[2]["shape"] is None


def test_weights_beside_the_file_need_not_be_there(rtc, tmp_path) -> None:
    h = onnx.helper
    node = h.make_node("MatMul", ["x", "w"], ["y"])
    sides = [h.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 8]) for n in "xy"]
    weights = numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    model = h.make_model(h.make_graph([node], "g", sides[:1], sides[1:], [weights]))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    there = document(rtc, path)
    assert there["parameters"] == {"float": 64}
    assert there["beside"] == [{"file": "w.bin", "bytes": 256, "problem": ""}]
    (tmp_path / "w.bin").unlink()
    assert document(rtc, path)["beside"][0]["problem"] == "missing"
    assert "w.bin: missing" in rtc("inspect", path).out


def test_what_the_checker_finds_is_shown_and_not_refused(rtc, tmp_path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Relu(q) }'
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    assert "q" in document(rtc, path)["flaw"]
