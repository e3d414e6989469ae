from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from check_pass import context_for, parse
from nets import TENSORRT, context

from rtc.compiler.core.passes import PLANNED, Exact, Pass, PassContext, PassResult, Requirement
from rtc.compiler.core.precision import Precision, PrecisionPlan, Variant
from rtc.compiler.core.unit import Level, Unit

UNIT = parse("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")


@dataclass(frozen=True)
class Mine(Pass):
    name = "mine"
    takes = gives = Level.ONNX
    share: float = 0.5

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        return PassResult(unit, False, "nothing to do")


def test_a_pass_is_a_value_whose_fields_are_its_options() -> None:
    assert Mine().options() == {"share": 0.5}
    assert Mine(0.5) == Mine()
    assert Mine().bound == Exact()
    assert Mine().requires == frozenset()
    with pytest.raises(AttributeError):
        Mine().share = 1.0  # type: ignore[misc]


def test_a_context_says_what_it_has() -> None:
    bare = context_for(UNIT)
    assert not any(bare.has(each) for each in Requirement)
    aimed = context(UNIT, TENSORRT)
    assert aimed.has(Requirement.TARGET)
    assert not aimed.has(Requirement.PLAN)
    assert aimed.where().scheme is TENSORRT
    plan = PrecisionPlan(
        model="sha256:1", target="any", variant=Variant.INT8, default=Precision.FP32
    )
    planned = replace(aimed, plan=plan)
    assert all(planned.has(each) for each in PLANNED)
    assert planned.planned() is plan


def test_who_asks_for_what_was_not_required_has_a_bug() -> None:
    with pytest.raises(AssertionError, match="requires a target"):
        context_for(UNIT).where()
    with pytest.raises(AssertionError, match="requires a plan"):
        context_for(UNIT).planned()
