"""What TensorRT-RTX does not keep in INT8 is planned so: real builds, the contract strict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from check_pass import Samples, parse
from nets import residual

from rtc.calibration.collect import collect
from rtc.compiler.building.builder import Builder, Candidate
from rtc.compiler.building.contract import changed, unknown
from rtc.compiler.candidates.offer import candidate as built
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.precision import Precision, PrecisionPlan, Variant
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.core.unit import Unit
from rtc.compiler.execution.stages import Stages
from rtc.compiler.lowering.job import Job
from rtc.compiler.recipe.plan_file import plan_text
from rtc.compiler.recipe.schema import load_recipe
from rtc.compiler.storage.store import Store
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.targets.loader import backend, profile

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")

RECIPE = """
recipe: 1
name: some
version: 1.0.0
source: {onnx: some.onnx}
data: {dataset: "rtc.recipes.datasets.mnist:mnist5k"}
batch: 8
"""


def normal(*shape: int) -> np.ndarray:
    values = np.random.default_rng(1).standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return values.astype(np.float32)


GROUPED = parse(
    """g (float[N,16,12,12] x) => (float[N,8] y) {
    [grouped] c = Conv<pads = [1,1,1,1], group = 2>(x, w)
    [grouped_relu] r = Relu(c)
    [whole] d = Conv<pads = [1,1,1,1]>(r, v)
    [whole_relu] s = Relu(d)
    [mean] m = GlobalAveragePool(s)
    [flat] f = Flatten(m)
    [fc] y = Gemm<transB = 1>(f, u)
}""",
    w=normal(16, 8, 3, 3),
    v=normal(32, 16, 3, 3),
    u=normal(8, 32),
)


DEVICES = {"tensorrt_rtx": "rtx4060ti", "onnxruntime": "cpu", "openvino": "cpu"}
INTEGERS = np.random.default_rng(2).integers(-127, 128, (16, 16, 3, 3), np.int8)
CAME_QUANTISED = parse(
    """g (float[N,16,12,12] x) => (float[N,16] y) {
    [xq] xq = QuantizeLinear(x, scale, zero)
    [xd] xd = DequantizeLinear(xq, scale, zero)
    [wd] wd = DequantizeLinear(w, weight_scale, zero)
    [conv] c = Conv<pads = [1,1,1,1]>(xd, wd)
    [relu] r = Relu(c)
    [rq] rq = QuantizeLinear(r, scale, zero)
    [rd] rd = DequantizeLinear(rq, scale, zero)
    [rows] a = Reshape(rd, shape)
    [columns] b = Transpose<perm = [0, 2, 1]>(a)
    [product] p = MatMul(a, b)
    [mixed] m = MatMul(p, v)
    [flat] f = Flatten(m)
    [last] y = MatMul(f, u)
}""",
    w=INTEGERS,
    v=normal(16, 144) / 100,
    scale=np.float32(0.05),
    weight_scale=np.float32(0.002),
    zero=np.int8(0),
    shape=np.array([0, 16, 144]),
    u=normal(16 * 144, 16) / 50,
)


def candidate(
    folder: Path, unit: Unit, variant: Variant, runtime: str = "tensorrt_rtx", **options: object
) -> Candidate:
    (folder / "some.onnx").write_bytes(b"")
    precision = ", ".join(f"{name}: {each}" for name, each in options.items())
    (folder / "recipe.yaml").write_text(f"{RECIPE}precision: {{search: null, {precision}}}\n")
    shape = (32, *unit.signature.inputs[0].shape[1:])
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    data = Samples(Split("some", values, None, Preprocess()))
    ranges = collect(unit.onnx.proto, AssignPrecision().needs(unit), data.calibration)
    job = Job(
        load_recipe(folder / "recipe.yaml"),
        unit,
        PassContext(data, statistics=ranges),
        BuildRequest(profile(DEVICES[runtime]), (1, 8, 8)),
        Stages(Store(folder / "store"), Nobody()),
    )
    return built(Builder.of(job, backend(runtime)), variant)


@pytest.mark.parametrize("variant", [Variant.INT8, Variant.MIX])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("unit", [residual(), GROUPED], ids=["residual", "grouped"])
def test_every_layer_is_built_as_planned(
    tmp_path: Path, unit: Unit, granularity: str, variant: Variant
) -> None:
    found = candidate(tmp_path, unit, variant, granularity=granularity)
    assert (changed(found.layers), unknown(found.layers)) == ((), ())
    assert not found.plan.is_float


def test_the_plan_says_that_a_build_showed_it(tmp_path: Path) -> None:
    found = candidate(tmp_path, residual(), Variant.INT8, granularity="channel")
    relu = found.plan.layers["conv1_relu"]
    assert relu.precision is Precision.FP32
    assert relu.because == "the builder runs it in fp32 where it is planned in INT8"
    assert found.plan.layers["conv1"].precision is Precision.INT8


def test_a_pin_is_kept_though_the_builder_does_not_keep_it(tmp_path: Path) -> None:
    found = candidate(
        tmp_path, residual(), Variant.INT8, granularity="channel", pin="{conv1: int8, fc: int8}"
    )
    assert found.plan.layers["conv1"].precision is Precision.INT8


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("runtime", DEVICES)
def test_layers_that_came_quantised_are_planned_as_they_came(
    tmp_path: Path, runtime: str, variant: Variant
) -> None:
    found = candidate(tmp_path, CAME_QUANTISED, variant, runtime)
    assert (changed(found.layers), unknown(found.layers)) == ((), ())
    conv = next(row for row in found.layers if row.name == "conv")
    if runtime == "onnxruntime":  # a Relu between it and its Q
        assert conv.reason == "the builder runs it in fp32 where it came quantised"
        return
    assert (conv.planned, conv.built, conv.reason) == ("int8", "int8", "it came quantised")
    decision = found.plan.layers["conv"]
    assert decision.came_quantised
    assert not decision.quantises


def test_a_plan_of_a_model_that_came_quantised_can_be_fed_back(tmp_path: Path) -> None:
    found = candidate(tmp_path, CAME_QUANTISED, Variant.MIX)
    again = PrecisionPlan.from_dict(found.plan.to_dict())
    assert again == found.plan
    (tmp_path / "plan.yaml").write_bytes(plan_text(again))
    kept = candidate(tmp_path, CAME_QUANTISED, Variant.MIX, plan="plan.yaml")
    assert kept.plan.layers == found.plan.layers
    assert changed(kept.layers) == ()


def test_what_came_quantised_may_be_pinned_to_what_it_is(tmp_path: Path) -> None:
    found = candidate(tmp_path, CAME_QUANTISED, Variant.HALF, pin="{conv: int8}")
    assert found.plan.layers["conv"].pinned
    assert found.plan.is_float
    assert changed(found.layers) == ()
