from __future__ import annotations

import pytest

from rtc.compiler.contract import changed, contract, unknown
from rtc.compiler.core.precision import LayerDecision, Precision, PrecisionPlan, Variant
from rtc.compiler.core.target import BuiltLayer


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


def test_a_float_layer_that_the_builder_narrows_is_changed_too() -> None:
    rows = contract(plan(conv=("Conv", Precision.FP32)), [kernel(Precision.HALF, "conv")], {})
    assert rows[0].verdict == "changed"


def test_a_pool_between_int8_layers_may_run_on_their_integers() -> None:
    rows = contract(plan(pool=("MaxPool", Precision.FP32)), [kernel(Precision.INT8, "pool")], {})
    assert rows[0].verdict == "kept"
    assert "neighbours" in rows[0].reason


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
