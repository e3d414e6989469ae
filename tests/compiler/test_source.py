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
from rtc.compiler import source
from rtc.compiler.core.unit import Unit
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
  [fc] y = Gemm<transB=1>(d, wf)
}}
"""


def old(path: Path, opset: int = 11, batch: str = "1", text: str = OLD) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text.format(opset=opset, batch=batch))
    random = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "s": (4,), "t": (4,), "m": (4,), "wf": (5, 4)}
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "v"))
    path.write_bytes(model.SerializeToString())
    return model


@pytest.mark.parametrize("batch", ["1", "N"])
def test_an_older_model_is_lifted_and_its_nodes_keep_their_names(
    tmp_path: Path, batch: str
) -> None:
    model = old(tmp_path / "old.onnx", batch=batch)
    unit = onnx_unit(tmp_path / "old.onnx")
    lifted = onnx.load_from_string(unit.onnx.proto)
    assert lifted.opset_import[0].version == 17
    assert {n.name for n in model.graph.node} <= {n.name for n in lifted.graph.node}
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    with Oracle(model.SerializeToString()) as before, Oracle(unit.onnx.proto) as after:
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
    monkeypatch.setattr(onnx, "version_converter", SimpleNamespace(convert_version=convert))
    files = source.read_model({"model.onnx": (tmp_path / "old.onnx").read_bytes()}, {})
    unit = Unit.from_files(files)
    assert onnx.load_from_string(unit.onnx.proto).opset_import[0].version == 11
