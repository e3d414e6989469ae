from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from check_pass import check_pass
from digits import TEACHER, Untested, few_digits
from safetensors.numpy import load

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.data import Splits
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.unit import Unit
from rtc.passes.torch.export_onnx import ExportOnnx
from rtc.passes.torch.torch_module import source_unit


@pytest.fixture(scope="module")
def data() -> Splits:
    return few_digits(200)


def unit_of(factory: str, data: Splits) -> Unit:
    return source_unit(factory, {}, b"", data.train, seed=3)


def exported(factory: str, data: Splits) -> onnx.ModelProto:
    unit, ctx = unit_of(factory, data), PassContext(Untested(data), seed=3)
    return onnx.load_model_from_string(ExportOnnx().apply(unit, ctx).unit.onnx.proto)


@pytest.fixture(scope="module")
def lenet(data: Splits) -> onnx.ModelProto:
    return exported(TEACHER, data)


def test_lenet_keeps_its_weights_and_its_layers_names(lenet: onnx.ModelProto, data: Splits) -> None:
    assert [(node.name, node.op_type) for node in lenet.graph.node] == [
        ("conv1", "Conv"),
        ("act1", "Gelu"),
        ("pool1", "AveragePool"),
        ("conv2", "Conv"),
        ("act2", "Gelu"),
        ("pool2", "AveragePool"),
        ("flatten", "Reshape"),
        ("fc1", "Gemm"),
        ("act3", "Gelu"),
        ("fc2", "Gemm"),
        ("act4", "Gelu"),
        ("fc3", "Gemm"),
    ]
    assert lenet.opset_import[0].version == 20
    weights = {tensor.name: tensor for tensor in lenet.graph.initializer}
    for name, value in load(unit_of(TEACHER, data).torch.weights).items():
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(weights[name]), value)


def test_the_batch_is_dynamic(lenet: onnx.ModelProto, data: Splits) -> None:
    with Oracle(lenet.SerializeToString()) as oracle:
        for batch in (1, 5):
            logits = oracle.run(data.test.inputs(0, batch))["logits"]
            assert logits.shape == (batch, 10)


def test_names_where_modules_and_operators_do_not_correspond(data: Splits) -> None:
    unit, ctx = unit_of("torch_models:residual", data), PassContext(data)
    result = check_pass(ExportOnnx(), unit, ctx, idempotent=False)
    model = onnx.load_model_from_string(result.unit.onnx.proto)
    assert [(node.name, node.op_type) for node in model.graph.node] == [
        ("features.0", "Conv"),
        ("features.1.conv", "Conv"),
        ("features.1", "Add"),
        ("features.1.act/Sigmoid", "Sigmoid"),
        ("features.1.act", "Mul"),
        ("act/Clip", "Clip"),
        ("Mul", "Mul"),
        ("act", "Clip"),
        ("fc", "MatMul"),
        ("fc/Add", "Add"),
        ("ReduceMean", "ReduceMean"),
    ]


def test_nothing_tells_of_the_machine_and_processes_agree(
    lenet: onnx.ModelProto, data: Splits, tmp_path: Path
) -> None:
    unit, here = unit_of(TEACHER, data), lenet.SerializeToString(deterministic=True)
    for secret in (b"site-packages", b".py", str(Path.home()).encode(), b"stack_trace"):
        assert secret not in here
    for name, content in unit.to_files().items():
        (tmp_path / name).write_bytes(content)
    script = """
import sys; from pathlib import Path
from rtc.compiler.core.passes import PassContext; from rtc.compiler.core.unit import Unit
from rtc.passes.torch.export_onnx import ExportOnnx
unit = Unit.from_files({path.name: path.read_bytes() for path in Path(".").iterdir()})
sys.stdout.buffer.write(ExportOnnx().apply(unit, PassContext(None)).unit.onnx.proto)
"""
    environment = {**os.environ, "PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo"}
    there = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
    )
    assert there.stdout == here
    assert there.stderr == b""


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("torch_models:fixed_batch", "fixes its batch .seen 2"),
        ("torch_models:branching", "cannot be exported to ONNX .seen .*data-dependent"),
    ],
)
def test_models_that_cannot_be_exported(factory: str, message: str, data: Splits) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        ExportOnnx().apply(unit_of(factory, data), PassContext(data))
    assert refused.value.id == "export"
    assert "\n" not in str(refused.value)
