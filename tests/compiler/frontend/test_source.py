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
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.unit import Unit
from rtc.compiler.frontend.axes import settled
from rtc.compiler.frontend.opset import lifted
from rtc.compiler.frontend.source import onnx_unit

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


@pytest.mark.parametrize("opset", [7, 9])
def test_the_mask_of_an_old_dropout_is_no_obstacle(tmp_path: Path, opset: int) -> None:
    """It was of the data's type before opset 10, and bool since. Weights were inputs as well."""
    model = old(tmp_path / "old.onnx", opset, "N", OLD.replace("] d = Drop", "] d, mask = Drop"))
    model.ir_version = 3
    for tensor in model.graph.initializer:
        listed = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(listed)
    unit = settled(read(model, tmp_path / "old.onnx"), SAMPLES, 4).unit
    newer = onnx.load_from_string(unit.onnx.proto)
    assert newer.opset_import[0].version == 17
    assert [each.name for each in newer.graph.input] == ["x"]
    with Oracle(model.SerializeToString()) as before, Oracle(unit.onnx.proto) as after:
        expected = before.run(SAMPLES[:2])["y"]
        np.testing.assert_allclose(after.run(SAMPLES[:2])["y"], expected, rtol=1e-5, atol=1e-6)


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
    found, note = lifted(unit, SAMPLES, [1])
    assert found is unit
    assert "stays in opset 11" in note
    assert "INT8 needs opset 13" in note
    assert settled(unit, SAMPLES, 1).notes[-1] == note
    monkeypatch.undo()
    assert lifted(unit, SAMPLES, [1])[1] == ""
    assert onnx.load_from_string(unit.onnx.proto).opset_import[0].version == 11


def slips(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    changed = CONVERT(model, opset)
    tensor = next(each for each in changed.graph.initializer if each.name == "wf")
    tensor.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(tensor), "wf"))
    return changed


def test_a_slip_is_seen_however_small_the_answers_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One percent of answers about 1e-5 is below any absolute tolerance that others need."""
    model = old(tmp_path / "old.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in ("wf", "bf"):
            small = np.float32(1e-5) * numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(small, tensor.name))
    unit = read(model, tmp_path / "small.onnx")
    assert lifted(unit, SAMPLES, [1])[1] == ""
    monkeypatch.setattr(onnx, "version_converter", SimpleNamespace(convert_version=slips))
    assert "other answers" in lifted(unit, SAMPLES, [1])[1]


def test_a_batch_that_is_free_by_name_alone_is_no_obstacle(tmp_path: Path) -> None:
    """A Reshape holds the batch: the model runs four samples at a time and no others."""
    text = OLD.replace("[squeeze] f = Squeeze<axes=[2,3]>(q)", "[flat] f = Reshape(q, shape)")
    model = old(tmp_path / "old.onnx", batch="N", text=text)
    model.graph.initializer.append(numpy_helper.from_array(np.array([4, 4]), "shape"))
    found = settled(read(model, tmp_path / "named.onnx"), SAMPLES, 4)
    assert onnx.load_from_string(found.unit.onnx.proto).opset_import[0].version == 17
    assert found.unit.fixed_batch == 4
    assert not any("stays in opset" in note for note in found.notes)


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


IMPORTS = {
    "one": [("ai.onnx", 11)],
    "last-old": [("", 17), ("ai.onnx", 11)],
    "last-new": [("ai.onnx", 11), ("", 17)],
}
"""In opset 11 a Softmax of rank 3 goes over all axes but the first, from 13 on over the last."""


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
@pytest.mark.parametrize("imports", IMPORTS.values(), ids=IMPORTS)
def test_onnx_operators_by_their_other_name(
    tmp_path: Path, imports: list[tuple[str, int]], domain: str
) -> None:
    model = onnx.parser.parse_model("""
    <ir_version: 7, opset_import: ["" : 11]>
    g (float[N,2,3] x) => (float[N,6] y) <bool yes = {1}> {
        s = If(yes) <
            then_branch = f () => (float[N,2,3] t) { t = Softmax(x) },
            else_branch = h () => (float[N,2,3] u) { u = Neg(x) }>
        y = Flatten(s)
    }""")
    for node in (*model.graph.node, *model.graph.node[0].attribute[0].g.node):
        node.domain = domain
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(*each) for each in imports)
    unit = read(model, tmp_path / "m.onnx")
    found = onnx.load_from_string(unit.onnx.proto)
    assert [(e.domain, e.version) for e in found.opset_import] == [("", imports[-1][1])]
    x = SAMPLES[:, 0, :2, :3].copy()
    after = settled(unit, x, 4).unit
    assert onnx.load_from_string(after.onnx.proto).opset_import[0].version == 17
    rows = np.exp(x) if imports[-1][1] > 12 else np.exp(x).reshape(16, 1, 6)
    expected = (rows / rows.sum(axis=-1, keepdims=True)).reshape(16, 6)
    for each in (unit, after):
        with Oracle(each.onnx.proto) as oracle:
            np.testing.assert_allclose(oracle.run(x)["y"], expected, rtol=1e-5)


@pytest.mark.parametrize("where", ["between", "branch", "output", "rank"])
def test_what_a_file_states_of_its_tensors_is_not_believed(tmp_path: Path, where: str) -> None:
    """Somebody changed the input's size or cut the classes, and left the rest as it was."""
    stated = "<float[N,4,9,9] r>" if where == "between" else ""
    gives = {"output": "float[N,9] y", "rank": "float[N,4,1] y"}.get(where, "float[N,4] y")
    inner = "<float[N,4,9,9] t>" if where == "branch" else ""
    model = onnx.parser.parse_model(f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4,8,8] x) => ({gives}) {stated} {{
        r = Relu(x)
        all = ReduceSum<keepdims = 0>(r)
        large = Cast<to = 9>(all)
        q = If(large) <
            then_branch = f () => (float[N,4,8,8] u) {inner} {{ t = Neg(r) u = Identity(t) }},
            else_branch = h () => (float[N,4,8,8] v) {{ v = Identity(r) }}>
        p = GlobalAveragePool(q)
        y = Flatten(p)
    }}""")
    unit = read(model, tmp_path / "m.onnx")
    assert unit.signature.outputs[0].shape == ("N", 4)
    x = np.concatenate([SAMPLES, SAMPLES[:, :1]], axis=1)
    with Oracle(unit.onnx.proto) as oracle:
        means = -np.maximum(x, 0).mean(axis=(2, 3))
        np.testing.assert_allclose(oracle.run(x)["y"], means, rtol=1e-5)


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
