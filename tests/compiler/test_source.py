from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, version_converter

from rtc.calibration.oracle import Oracle
from rtc.compiler.axes import settled
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.unit import Unit
from rtc.compiler.opset import lifted
from rtc.compiler.source import onnx_unit

CONVERT = version_converter.convert_version
OLD = """
<ir_version: 7, opset_import: ["" : {opset}]>
g (float[{batch},3,8,8] x) => (float[{batch},5] y) {{
  [conv] a = Conv<pads=[1,1,1,1]>(x, w)
  [bn] b = BatchNormalization(a, s, t, m, v)
  [relu] r = Relu(b)
  [pool] p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r)
  [mean] q = GlobalAveragePool(p)
  [squeeze] f = Squeeze<axes=[2,3]>(q)
  [drop] d = Dropout<ratio=0.5>(f)
  [fc] y = Gemm<transB=1>(d, wf, bf)
}}
"""


def old(path: Path, opset: int = 11, batch: str = "1", text: str = OLD) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text.format(opset=opset, batch=batch))
    random = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "s": (4,), "t": (4,), "m": (4,), "wf": (5, 4), "bf": (5,)}
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "v"))
    path.write_bytes(model.SerializeToString())
    return model


SAMPLES = np.random.default_rng(1).normal(size=(16, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 16])
@pytest.mark.parametrize("batch", ["1", "N"])
def test_an_older_model_is_lifted_and_its_nodes_keep_their_names(
    tmp_path: Path, batch: str, opset: int
) -> None:
    text = OLD if opset < 13 else OLD.replace("Squeeze<axes=[2,3]>(q)", "Flatten(q)")
    text = text if opset < 12 else text.replace("Dropout<ratio=0.5>", "Dropout")
    model = old(tmp_path / "old.onnx", opset, batch, text)
    unit = settled(onnx_unit(tmp_path / "old.onnx"), SAMPLES, 4).unit
    newer = onnx.load_from_string(unit.onnx.proto)
    assert newer.opset_import[0].version == 17
    assert {n.name for n in model.graph.node} <= {n.name for n in newer.graph.node}
    with Oracle(model.SerializeToString()) as before, Oracle(unit.onnx.proto) as after:
        for x in (SAMPLES[:1], SAMPLES[1:2]):
            np.testing.assert_allclose(after.run(x)["y"], before.run(x)["y"], rtol=1e-5, atol=1e-6)


def refuses(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    raise RuntimeError("no adapter")


def spoils(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    changed = CONVERT(model, opset)
    tensor = next(each for each in changed.graph.initializer if each.name == "wf")
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), "wf"))
    return changed


@pytest.mark.parametrize("convert", [refuses, spoils])
def test_what_is_not_lifted_soundly_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convert: Callable[..., Any]
) -> None:
    old(tmp_path / "old.onnx")
    unit = onnx_unit(tmp_path / "old.onnx")
    monkeypatch.setattr(onnx, "version_converter", SimpleNamespace(convert_version=convert))
    assert lifted(unit, SAMPLES[:1]) is unit
    assert onnx.load_from_string(unit.onnx.proto).opset_import[0].version == 11


def read(model: onnx.ModelProto | str, path: Path) -> Unit:
    made = onnx.parser.parse_model(model) if isinstance(model, str) else model
    path.write_bytes(made.SerializeToString())
    return onnx_unit(path)


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


@pytest.mark.parametrize("size", [-1, 0])
def test_sizes_below_one_are_not_known(tmp_path: Path, size: int) -> None:
    model = old(tmp_path / "old.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    unit = read(model, tmp_path / "old.onnx")
    assert isinstance(unit.signature.inputs[0].shape[0], str)
    found = settled(unit, SAMPLES, 4).unit
    assert found.signature.outputs[0].shape == (found.signature.inputs[0].shape[0], 5)


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


def test_a_newer_ir_version_is_lowered_and_a_newer_opset_is_said(tmp_path: Path) -> None:
    model = old(tmp_path / "old.onnx")
    model.ir_version = onnx.IR_VERSION + 1
    lower = onnx.load_from_string(read(model, tmp_path / "new.onnx").onnx.proto)
    assert lower.ir_version == onnx.IR_VERSION
    model.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    with pytest.raises(ModelError, match="older opset_version") as refused:
        read(model, tmp_path / "new.onnx")
    assert refused.value.id == "newer-opset"
