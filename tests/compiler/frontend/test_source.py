from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from read_models import SAMPLES, old, read

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.errors import ModelError
from rtc.compiler.frontend.axes import settled
from rtc.compiler.frontend.source import onnx_unit

MASKED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4] x) => (float[N,4] y)
<float half = {0.5}, float[4] mask = {0, 0, 0, 0}>
{
  [scaled] s = Mul(x, half)
  m = Constant<value = float[4] {0, 0, 0, 0}>()
  a = Add(s, mask)
  b = Add(a, m)
  y = Softmax(b)
}
"""


def masked(value: float, *, node: bool) -> onnx.ModelProto:
    """A model with a scalar initialiser, and a mask that is an initialiser or a Constant node."""
    model = onnx.parser.parse_model(MASKED)
    made = numpy_helper.from_array(np.array([0, value, 0, 0], np.float32), "mask")
    if node:
        model.graph.node[1].attribute[0].t.CopyFrom(made)
    else:
        model.graph.initializer[1].CopyFrom(made)
    return model


@pytest.mark.parametrize("node", [False, True])
def test_a_mask_may_be_infinite_and_nothing_may_be_nan(tmp_path: Path, node: bool) -> None:
    unit = read(masked(-np.inf, node=node), tmp_path / "m.onnx")
    with Oracle(unit.onnx.proto) as oracle:
        got = oracle.run(np.zeros((1, 4), np.float32))["y"]
    np.testing.assert_allclose(got, [[1 / 3, 0, 1 / 3, 1 / 3]], rtol=1e-6)
    with pytest.raises(ModelError) as refused:
        read(masked(np.nan, node=node), tmp_path / "m.onnx")
    assert refused.value.id == "not-finite-weights"


def test_an_infinite_weight_of_a_layer_is_refused(tmp_path: Path) -> None:
    model = old(tmp_path / "old.onnx")
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, 0, 0, 0] = np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    with pytest.raises(ModelError, match="w: a weight is NaN or infinite"):
        read(model, tmp_path / "old.onnx")


@pytest.mark.parametrize("what", ["names", "shape"])
def test_outputs_need_not_tell_their_shape(tmp_path: Path, what: str) -> None:
    model = old(tmp_path / "old.onnx", batch="N")
    for dim in model.graph.output[0].type.tensor_type.shape.dim:
        dim.Clear()
    if what == "shape":
        model.graph.output[0].type.tensor_type.ClearField("shape")
    found = settled(read(model, tmp_path / "old.onnx"), SAMPLES, 4).unit
    assert found.signature.outputs[0].shape == ("N", 5)


FUNCTIONS = """
<ir_version: 10, opset_import: ["" : 18, "own" : 1]>
g (float[N,4] x) => (float[N,4] y) {
  a = own.twice(x)
  y = own.twice(a)
}
<domain: "own", opset_import: ["" : 18, "own" : 1]>
twice (x) => (y) {
  [body] h = own.add(x, x)
  y = Identity(h)
}
<domain: "own", opset_import: ["" : 18]>
add (a, b) => (c) {
  [sum] c = Add(a, b)
}
"""


def test_local_functions_are_inlined_and_their_nodes_get_names(tmp_path: Path) -> None:
    unit = read(FUNCTIONS, tmp_path / "f.onnx")
    model = onnx.load_from_string(unit.onnx.proto)
    assert not model.functions
    assert [each.domain for each in model.opset_import] == [""]
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    x = SAMPLES[:2, 0, 0, :4]
    with Oracle(unit.onnx.proto) as oracle:
        np.testing.assert_array_equal(oracle.run(x)["y"], 4 * x)


def test_functions_that_call_themselves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        read(FUNCTIONS.replace("c = Add(a, b)", "c = own.add(a, b)"), tmp_path / "f.onnx")
    assert refused.value.id in ("recursive-functions", "unreadable-model")


@pytest.mark.parametrize(("shape", "reads"), [("5,1,1", True), ("1,5", True), ("5,2", False)])
def test_an_output_may_have_axes_of_one_besides(tmp_path: Path, shape: str, *, reads: bool) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,10] x) => (float[N,{shape}] y) <int64[{shape.count(",") + 2}] s = {{0,{shape}}}> {{
      {"k = Identity(x)" if not reads else "h, k = Split<axis=1>(x)"} y = Reshape(k, s)
    }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    if not reads:
        with pytest.raises(ModelError, match="not a classifier's"):
            onnx_unit(tmp_path / "net.onnx")
        return
    samples = np.random.default_rng(0).normal(size=(16, 10)).astype(np.float32)
    found = settled(onnx_unit(tmp_path / "net.onnx"), samples, 4)
    assert found.unit.signature.outputs[0].shape == ("N", 5)
    assert "engines give (N, 5)" in found.notes[0]
