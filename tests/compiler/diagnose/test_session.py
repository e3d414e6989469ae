from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from check_pass import parse

from rtc.compiler.core.errors import MachineError, ModelError, RecipeError
from rtc.compiler.core.precision import Precision, Variant
from rtc.compiler.core.progress import Nobody
from rtc.compiler.diagnose.session import opened
from rtc.compiler.execution.stages import Stages
from rtc.compiler.measure.reference import reference_logits
from rtc.compiler.recipe.schema import load_recipe
from rtc.compiler.storage.store import Store

RECIPE = """
recipe: 1
name: small
version: 1.0.0
source: {onnx: model.onnx}
data: {npz: samples.npz, classes: 5, split: {train: 0.0, calibration: 0.3, test: 0.7}}
precision: {pin: {last: fp32}}
"""


@pytest.fixture
def session(tmp_path: Path):
    """Open a candidate of a model of two layers."""
    draw = np.random.default_rng(0)
    unit = parse(
        """g (float[N,8] x) => (float[N,5] y) {
        [first] a = Gemm(x, w1, b1)
        [act] r = Relu(a)
        [last] y = Gemm(r, w2, b2)
    }""",
        w1=draw.normal(size=(8, 16)).astype(np.float32),
        b1=draw.normal(size=16).astype(np.float32),
        w2=draw.normal(size=(16, 5)).astype(np.float32),
        b2=draw.normal(size=5).astype(np.float32),
    )
    (tmp_path / "model.onnx").write_bytes(unit.onnx.proto)
    x = draw.normal(size=(200, 8)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x, y=np.arange(200) % 5)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    stages = Stages(Store(tmp_path / "store"), Nobody())

    def start(**options: object):
        return opened(recipe, stages, **options)

    return start


def test_a_plan_is_changed_written_and_run(session) -> None:
    it = session(backend="onnxruntime")
    assert it.plan.precision_of("first") is Precision.INT8
    assert it.plan.precision_of("last") is Precision.FP32
    test = it.job.context.data.test
    floats = reference_logits(it.model.onnx.proto, test)
    changed = it.replanned({"first": Precision.FP32})
    assert changed.is_float
    with it.runtime(test) as runtime:
        runtime.build(it.graph(it.plan))
        quantised = runtime.logits()
        runtime.build(it.graph(changed))
        restored = runtime.logits()
    assert quantised.shape == restored.shape == (140, 5)  # the last batch is not a full one
    assert np.abs(restored - floats).max() < 1e-4 < np.abs(quantised - floats).max()


def test_a_graph_that_the_runtime_refuses_leaves_it_ready_for_the_next(session) -> None:
    it = session(backend="onnxruntime")
    wrong = parse("g (float[N,8] x) => (float[N,8] y) { y = Custom(x) }")
    with it.runtime(it.job.context.data.test.head(3)) as runtime:
        with pytest.raises(ModelError):
            runtime.build(wrong)
        runtime.build(it.model)
        assert runtime.logits().shape == (3, 5)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"backend": "onnxruntim"}, RecipeError, 'did you mean "onnxruntime"'),
        ({"backend": "tensorrt_rtx"}, RecipeError, "target cpu is not built with tensorrt_rtx"),
        ({"target": "cpus"}, RecipeError, 'did you mean "cpu"'),
        ({"backend": "onnxruntime", "variant": Variant.HALF}, RecipeError, "no half candidate"),
        ({"target": "rtx4060ti"}, MachineError, "does not run for rtx4060ti here"),
    ],
)
def test_what_cannot_be_opened(session, options, error, text) -> None:
    with pytest.raises(error, match=text):
        session(**options)
