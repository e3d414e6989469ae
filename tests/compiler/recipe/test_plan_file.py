from __future__ import annotations

from pathlib import Path

import pytest

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.precision import (
    LayerDecision,
    Precision,
    PrecisionPlan,
    ResidualDecision,
    ResidualPolicy,
    Variant,
)
from rtc.compiler.recipe.plan_file import parse_plan, plan_text, read_plan

PLAN = PrecisionPlan(
    model="sha256:1",
    target="cpu",
    variant=Variant.MIX,
    default=Precision.FP32,
    layers={
        "z: odd 'name'": LayerDecision(Precision.INT8, "31.2 dB ≥ 20 dB", snr_db=31.25, op="Conv"),
        "a": LayerDecision(Precision.HALF, "pinned", pinned=True, op="MatMul"),
    },
    residuals={
        "add": ResidualDecision(
            ResidualPolicy.KEEP_HALF, ("z", "a"), ((-1.0, 1.0), (0.0, 2.5)), "for accuracy"
        )
    },
)


def test_it_survives_its_file_in_the_order_of_the_graph(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_bytes(plan_text(PLAN))
    again = read_plan(tmp_path / "plan.yaml")
    assert again == PLAN
    assert list(again.layers) == list(PLAN.layers)
    assert "≥" in plan_text(PLAN).decode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"[1, 2]", "not a precision plan"),
        (b"plan: 1\nlayers: {a: {precision: int9}}", "no key 'model'"),
        (plan_text(PLAN).replace(b"precision: int8", b"precision: int9"), "int9"),
        (b"plan: 7", "plan"),
        (b"a: [", "p.yaml"),
    ],
)
def test_what_is_no_plan_says_where(content: bytes, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_plan(content, "p.yaml")
    assert "p.yaml" in error.value.where
    assert said in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read it"):
        read_plan(tmp_path / "none.yaml")
