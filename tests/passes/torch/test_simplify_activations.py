from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from check_pass import check_pass
from digits import STUDENT, Untested, few_digits, lenet

from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.unit import Unit
from rtc.passes.torch.simplify_activations import SimplifyActivations
from rtc.passes.torch.torch_module import activation_name, build, source_unit
from rtc.passes.torch.train import Train


@pytest.fixture(scope="module")
def trained() -> tuple[Unit, PassContext]:
    unit, ctx = lenet(few_digits(), STUDENT)
    return Train(epochs=4, batch=16).apply(unit, ctx).unit, ctx


def activations(unit: Unit) -> list[str]:
    names = [activation_name(part) for part in build(unit.torch).modules()]
    return [name for name in names if name]


def test_each_activation_is_replaced_within_the_budget(trained: tuple[Unit, PassContext]) -> None:
    unit, ctx = trained
    step = SimplifyActivations(epochs=1, budget=0.1)
    result = check_pass(step, unit, ctx, samples=200)
    assert activations(result.unit) == ["relu"] * 3
    assert result.unit.torch.edits == (("act1", "relu"), ("act2", "relu"), ("act3", "relu"))
    layers = result.details["layers"]
    assert [(layer["layer"], layer["from"], layer["to"]) for layer in layers] == [
        (f"act{number}", "gelu", "relu") for number in (1, 2, 3)
    ]
    for earlier, later in pairwise(layers):
        assert later["before"] == earlier["after"]  # each goes on from the one that was kept
    assert len(result.details["curves"]) == 3


def test_beyond_the_budget_nothing_changes(trained: tuple[Unit, PassContext]) -> None:
    unit, ctx = trained
    ruinous = SimplifyActivations(rules={"gelu": "hardsigmoid"}, epochs=1, lr=1e-9, budget=0.0)
    result = ruinous.apply(unit, replace(ctx, data=Untested(ctx.data)))
    assert result.unit is unit
    assert not result.modified
    layers = result.details["layers"]
    assert [layer["kept"] for layer in layers] == [False] * 3
    assert len({layer["before"] for layer in layers}) == 1  # each starts from the same weights
    assert all("beyond the budget of 0.00" in layer["because"] for layer in layers)


def test_one_layer_may_change_and_another_stay(trained: tuple[Unit, PassContext]) -> None:
    unit, ctx = trained
    probe = SimplifyActivations(rules={"gelu": "hardsigmoid"}, epochs=1, lr=1e-9, budget=0.0)
    drops = [row["before"] - row["after"] for row in probe.apply(unit, ctx).details["layers"]]
    assert len(set(drops)) > 1
    result = replace(probe, budget=round(min(drops), 6)).apply(unit, ctx)
    kept = [row["layer"] for row in result.details["layers"] if row["kept"]]
    assert 0 < len(kept) < 3
    assert result.unit.torch.edits == tuple((layer, "hardsigmoid") for layer in kept)
    assert sorted(activations(result.unit)) == sorted(
        ["hardsigmoid"] * len(kept) + ["gelu"] * (3 - len(kept))
    )


def test_a_model_without_costly_activations_is_left_alone(
    trained: tuple[Unit, PassContext],
) -> None:
    _, ctx = trained
    unit = source_unit(STUDENT, {"activation": "relu"}, b"", ctx.data.train, seed=0)
    result = check_pass(SimplifyActivations(), unit, ctx, samples=200)
    assert result.unit is unit
    assert result.summary == "no activation that a rule names"
