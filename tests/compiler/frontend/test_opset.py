"""Older models in a newer opset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, version_converter
from read_models import OLD, SAMPLES, old, read

from rtc.calibration.oracle import Oracle
from rtc.compiler.frontend.axes import settled
from rtc.compiler.frontend.opset import lifted
from rtc.compiler.frontend.source import onnx_unit

CONVERT = version_converter.convert_version


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
