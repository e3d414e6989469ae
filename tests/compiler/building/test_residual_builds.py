"""How each runtime builds a residual Add under each policy: real builds, the contract held."""

from dataclasses import replace

import pytest
from nets import context
from residual_nets import blocks

from rtc.compiler.building.contract import changed, contract
from rtc.compiler.core.precision import Precision, ResidualPolicy, Variant
from rtc.compiler.core.target import BuildRequest
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.cast_precision import CastPrecision
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.targets.loader import backend, profile

UNIT = blocks()
FUSED = {"b2", "join2"}
POLICY = {policy.value: policy for policy in ResidualPolicy}


def built(runtime: str, device: str, policy: str):
    """The plan with one policy on every Add, and the kernels that were built of it."""
    engine, where = backend(runtime), profile(device)
    ctx = context(UNIT, engine.scheme(where))
    assign = AssignPrecision(
        variant=Variant.INT8 if device == "cpu" else Variant.MIX,
        pin={"stem": Precision.INT8},
        residuals={"*": POLICY[policy]},
    )
    ctx = replace(ctx, plan=assign.apply(UNIT, ctx).plan)
    unit = CastPrecision().apply(InsertQdq().apply(UNIT, ctx).unit, ctx).unit
    return ctx.plan, engine.build(unit.onnx.proto, BuildRequest(where, (1, 8, 8))).layers


def kernel_of(layers, node: str):
    return next(layer for layer in layers if node in layer.onnx_nodes)


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        ("keep-half", "Add"),
        ("quantise-both", "QLinearAdd"),
        ("shared-scale", "QLinearAdd"),
        ("recalibrated", "QLinearAdd"),
    ],
)
def test_onnxruntime(policy, kind):
    plan, layers = built("onnxruntime", "cpu", policy)
    assert changed(contract(plan, layers, {})) == ()
    assert kernel_of(layers, "join2").kind == kind
    assert kernel_of(layers, "b2").kind == "QLinearConv"


@pytest.mark.parametrize("policy", ["keep-half", "quantise-both", "shared-scale", "recalibrated"])
def test_openvino(policy):
    plan, layers = built("openvino", "cpu", policy)
    assert changed(contract(plan, layers, {})) == ()
    assert set(kernel_of(layers, "join2").onnx_nodes) >= FUSED
    assert kernel_of(layers, "b2").precision is Precision.INT8


@pytest.mark.parametrize(
    ("policy", "fused"),
    [
        ("keep-half", True),
        ("quantise-skip", True),
        ("quantise-both", False),
        ("shared-scale", False),
        ("recalibrated", True),
    ],
)
def test_tensorrt_rtx(policy, fused):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    plan, layers = built("tensorrt_rtx", "rtx4060ti", policy)
    assert changed(contract(plan, layers, {})) == ()
    assert kernel_of(layers, "b2").precision is Precision.INT8
    assert (kernel_of(layers, "join2") is kernel_of(layers, "b2")) == fused
