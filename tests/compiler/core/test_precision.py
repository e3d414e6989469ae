from dataclasses import replace

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

DECISION = ResidualDecision(
    ResidualPolicy.QUANTISE_SKIP,
    branches=("b1", "r0"),
    branch_ranges=((-2.5, 2.0), (0.0, 8.0)),
    because="a reason",
)
PLAN = PrecisionPlan(
    "sha256:0",
    "device",
    Variant.MIX,
    Precision.HALF,
    layers={"other": LayerDecision(Precision.INT8, "a reason", op="Add")},
    residuals={"join": DECISION, "pinned": replace(DECISION, pinned=True)},
)


def test_a_plan_is_read_back_as_it_was_written():
    fields = PLAN.to_dict()
    assert fields["residuals"]["join"] == {
        "policy": "quantise-skip",
        "branches": ["b1", "r0"],
        "branch_ranges": [[-2.5, 2.0], [0.0, 8.0]],
        "because": "a reason",
    }
    assert PrecisionPlan.from_dict(fields) == PLAN


def test_a_plan_without_residuals_has_none():
    fields = PLAN.to_dict()
    del fields["residuals"]
    assert PrecisionPlan.from_dict(fields).residuals == {}


def test_an_add_that_is_not_listed_does_as_its_layer():
    assert PLAN.residual_of("join") is ResidualPolicy.QUANTISE_SKIP
    assert PLAN.residual_of("other") is ResidualPolicy.QUANTISE_BOTH
    assert PLAN.residual_of("unknown") is ResidualPolicy.KEEP_HALF


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"policy": "share-scale"}, 'did you mean "shared-scale"?'),
        ({"policy": None}, "no such policy"),
        ({"branches": ["b1"]}, "not a decision on a residual Add"),
        ({"branch_ranges": [[0.0, 1.0], 2.0]}, "not a decision on a residual Add"),
        ({"branch_ranges": [[0.0, "x"], [0.0, 1.0]]}, "could not convert"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_no_decision_is_a_recipe_error(change, text):
    fields = PLAN.to_dict()
    fields["residuals"]["join"] |= change
    with pytest.raises(RecipeError) as error:
        PrecisionPlan.from_dict(fields)
    assert error.value.where == "plan: residuals: join"
    assert text in str(error.value)
