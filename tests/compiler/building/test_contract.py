from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from check_pass import parse
from nets import PROFILE, planned

from rtc.compiler.building.contract import changed, contract, unknown
from rtc.compiler.core.precision import LayerDecision, Precision, PrecisionPlan, Variant
from rtc.compiler.core.target import BuildRequest, BuiltLayer
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.targets.backends.onnxruntime import OnnxRuntime


def plan(**layers: tuple[str, Precision]) -> PrecisionPlan:
    decisions = {
        name: LayerDecision(precision, "a reason", op=op)
        for name, (op, precision) in layers.items()
    }
    return PrecisionPlan("sha256:0", "device", Variant.MIX, Precision.FP32, decisions)


def kernel(precision: Precision | None, *nodes: str, kind: str = "kernel") -> BuiltLayer:
    return BuiltLayer("+".join(nodes) or "added", kind, nodes, precision)


def test_a_layer_built_as_planned_is_kept() -> None:
    rows = contract(
        plan(conv=("Conv", Precision.INT8)), [kernel(Precision.INT8, "conv", "relu")], {}
    )
    assert [(row.name, row.verdict, row.built) for row in rows] == [("conv", "kept", "int8")]
    assert changed(rows) == ()


def test_a_silent_fallback_is_listed_with_the_kernel_that_runs_instead() -> None:
    layers = [kernel(Precision.FP32, "conv", kind="Conv"), kernel(None, "conv", kind="Dequantize")]
    rows = contract(plan(conv=("Conv", Precision.INT8)), layers, {"conv": "1×8×4×4"})
    assert changed(rows) == rows
    assert rows[0].shape == "1×8×4×4"
    assert "planned int8, the builder runs fp32 (Conv)" in rows[0].reason


def test_the_widest_kernel_of_a_layer_counts() -> None:
    layers = [kernel(Precision.INT8, "gemm"), kernel(Precision.HALF, "gemm")]
    rows = contract(plan(gemm=("Gemm", Precision.INT8)), layers, {})
    assert rows[0].built == "half"
    assert rows[0].verdict == "changed"


def test_a_node_of_a_kernel_that_casts_on_its_way_has_its_own_precision() -> None:
    layer = replace(kernel(Precision.FP32, "sum", "root"), precision_of={"sum": Precision.HALF})
    asked = plan(sum=("Add", Precision.HALF), root=("Sqrt", Precision.FP32))
    rows = contract(asked, [layer], {})
    assert [(row.name, row.verdict, row.built) for row in rows] == [
        ("sum", "kept", "half"),
        ("root", "kept", "fp32"),
    ]


def test_a_float_layer_that_the_builder_narrows_is_changed_too() -> None:
    rows = contract(plan(conv=("Conv", Precision.FP32)), [kernel(Precision.HALF, "conv")], {})
    assert rows[0].verdict == "changed"


@pytest.mark.parametrize("planned", [Precision.FP32, Precision.HALF])
@pytest.mark.parametrize("op", ["MaxPool", "Add", "Softmax"])
def test_a_float_layer_without_weights_that_runs_in_int8_is_not_called_kept(planned, op) -> None:
    rows = contract(plan(layer=(op, planned)), [kernel(Precision.INT8, "layer")], {})
    assert (rows[0].verdict, rows[0].planned, rows[0].built) == ("follows", planned, "int8")
    assert f"planned {planned}, runs on its neighbours' INT8 values" in rows[0].reason
    assert changed(rows) == unknown(rows) == ()


def test_a_layer_that_is_pinned_to_float_does_not_follow_into_int8() -> None:
    asked = plan(pool=("MaxPool", Precision.FP32))
    pinned = {name: replace(each, pinned=True) for name, each in asked.layers.items()}
    rows = contract(replace(asked, layers=pinned), [kernel(Precision.INT8, "pool")], {})
    assert (rows[0].verdict, rows[0].pinned) == ("changed", True)
    assert changed(rows) == rows


@pytest.mark.parametrize("planned", [Precision.FP32, Precision.HALF])
def test_a_float_layer_with_weights_that_is_built_int8_is_changed(planned) -> None:
    rows = contract(plan(conv=("Conv", planned)), [kernel(Precision.INT8, "conv")], {})
    assert changed(rows) == rows
    assert f"planned {planned}, the builder runs int8" in rows[0].reason


def test_an_activation_that_no_kernel_names_is_folded() -> None:
    layers = [kernel(Precision.FP32, "conv")]
    rows = contract(plan(relu=("Relu", Precision.FP32)), layers, {})
    assert (rows[0].verdict, rows[0].built) == ("folded", "")
    assert "no kernel" in rows[0].reason


@pytest.mark.parametrize("layers", [[], [kernel(None, "conv")], [kernel(Precision.INT8, "other")]])
def test_weights_that_no_kernel_is_known_to_multiply_are_unknown(layers: list[BuiltLayer]) -> None:
    rows = contract(plan(conv=("Conv", Precision.INT8)), layers, {})
    assert (rows[0].verdict, rows[0].built) == ("unknown", "")
    assert unknown(rows) == rows
    assert changed(rows) == ()


def test_onnx_runtime_keeps_the_plan_of_matrix_products_with_a_bias_apart() -> None:
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=(32, 32)).astype(np.float32) for n in ("w1", "w2")}
    unit = parse(
        """g (float[N,32] x) => (float[N,32] y) {
        [first] a = MatMul(x, w1)
        [shift] b = Add(a, bias)
        [relu] c = Relu(b)
        [second] y = MatMul(c, w2)
    }""",
        **weights,
        bias=rng.normal(size=32).astype(np.float32),
    )
    runtime = OnnxRuntime()
    ctx = planned(unit, runtime.scheme(PROFILE), Variant.INT8)
    assert ctx.plan is not None
    graph = InsertQdq().apply(unit, ctx).unit.onnx.proto
    rows = contract(ctx.plan, runtime.build(graph, BuildRequest(PROFILE, (1, 8, 8))).layers, {})
    assert {row.name: (row.planned, row.verdict) for row in rows} == {
        "first": ("int8", "kept"),
        "shift": ("fp32", "kept"),
        "relu": ("fp32", "folded"),
        "second": ("int8", "kept"),
    }
