"""What TensorRT-RTX builds of a half graph with float islands: real builds, the contract held."""

from __future__ import annotations

import pytest
from half_nets import CASES, context, in_half

from rtc.compiler.building.contract import contract
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuildRequest
from rtc.targets.loader import backend, profile

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")


@pytest.mark.parametrize("name", ["layer-norm", "group-norm", "mask", "built-mask", "exp"])
def test_every_layer_is_built_as_planned(name: str) -> None:
    """The builder makes one kernel of islands and what lies around them, and casts on the way."""
    case, engine, where = CASES[name], backend("tensorrt_rtx"), profile("rtx4060ti")
    plan, half = in_half(case.unit, context(case, engine.scheme(where)))
    built = engine.build(half.onnx.proto, BuildRequest(where, (1, 8, 8)))
    rows = {row.name: row for row in contract(plan, built.layers, {})}
    assert {row.verdict for row in rows.values()} <= {"kept", "folded"}
    assert {rows[name].built for name in case.floats.split()} - {""} == {"fp32"}
    assert any(decision.precision is Precision.HALF for decision in plan.layers.values())
