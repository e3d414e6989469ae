"""A file may say the same in several forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from read_models import SAMPLES, old, read

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.errors import ModelError
from rtc.compiler.frontend.axes import settled


@pytest.mark.parametrize("size", [-1, 0])
def test_sizes_below_one_are_not_known(tmp_path: Path, size: int) -> None:
    model = old(tmp_path / "old.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    unit = read(model, tmp_path / "old.onnx")
    assert isinstance(unit.signature.inputs[0].shape[0], str)
    found = settled(unit, SAMPLES, 4).unit
    assert found.signature.outputs[0].shape == (found.signature.inputs[0].shape[0], 5)


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
