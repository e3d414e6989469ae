"""Passes that break their contract: each is told of by the runner, before it is held to numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import onnx
import pytest
from check_pass import context_for, parse

from rtc.compiler.core.errors import InternalError, RecipeError
from rtc.compiler.core.passes import PLANNED, Pass, PassContext, PassResult, Requirement
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.unit import Level, OnnxModel, Signature, TensorSpec, TorchModel, Unit
from rtc.compiler.execution.certified_pass import run_pass
from rtc.compiler.execution.pass_contract import check_requirements
from rtc.compiler.execution.stages import Stages
from rtc.compiler.storage.store import Store

UNIT = parse("g (float[N,3] x) => (float[N,3] y) { [one] a = Relu(x) [two] y = Relu(a) }")


@dataclass(frozen=True)
class Mine(Pass):
    """Gives what the test wants of it."""

    name: ClassVar[str] = "mine"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        return GIVES[0](unit)


GIVES: list[Callable[[Unit], PassResult]] = []


def rewritten(change: Callable[[onnx.ModelProto], object]) -> Unit:
    model = onnx.load_model_from_string(UNIT.onnx.proto)
    change(model)
    return Unit(OnnxModel(model.SerializeToString()), UNIT.signature)


def run(step: Pass, folder: Path, ctx: PassContext | None = None) -> None:
    run_pass(step, UNIT, ctx or context_for(UNIT), Stages(Store(folder), Nobody()))


def _renamed(model: onnx.ModelProto) -> None:
    model.graph.node[1].name = "one"


def _nameless(model: onnx.ModelProto) -> None:
    model.graph.node[0].name = ""


def _broken(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nowhere"


def _other_output(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = model.graph.output[0].name = "z"


def _wider_output(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, onnx.helper.make_node("Concat", ["x", "x"], ["w"], "both", axis=1))
    model.graph.node[1].input[0] = "w"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6


def _double_output(model: onnx.ModelProto) -> None:
    model.graph.node[1].CopyFrom(
        onnx.helper.make_node("Cast", ["a"], ["y"], "two", to=onnx.TensorProto.DOUBLE)
    )
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def _signature_of_another(unit: Unit) -> PassResult:
    spec = TensorSpec("x", "float32", ("N", 4))
    wider = replace(unit, signature=Signature((spec,), unit.signature.outputs))
    return PassResult(replace(wider, model=rewritten(_tanh).model), True, "wider")


def _tanh(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Identity"


LIES: dict[str, tuple[Callable[[Unit], object], str, str]] = {
    "no result": (lambda unit: unit, "seen Unit", "expected a PassResult"),
    "another level": (
        lambda unit: PassResult(Unit(TorchModel("a:b", {}, b""), unit.signature), True, ""),
        "seen a unit at the level torch",
        "the level onnx",
    ),
    "changed and silent": (
        lambda _: PassResult(rewritten(_tanh), False, ""),
        "modified=False, and the model changed",
        "expected modified=True",
    ),
    "unchanged and loud": (
        lambda unit: PassResult(unit, True, ""),
        "modified=True, and the model did not",
        "expected modified=False",
    ),
    "another signature": (_signature_of_another, "'shape': ['N', 4]", "'shape': ['N', 3]"),
    "another output": (
        lambda _: PassResult(rewritten(_other_output), True, ""),
        "seen outputs z",
        "expected outputs y",
    ),
    "an output of another size": (
        lambda _: PassResult(rewritten(_wider_output), True, ""),
        "seen outputs y float32(N, 6)",
        "expected outputs y float32(N, 3)",
    ),
    "an output of another type": (
        lambda _: PassResult(rewritten(_double_output), True, ""),
        "seen outputs y float64(N, 3)",
        "expected outputs y float32(N, 3)",
    ),
    "no graph": (lambda _: PassResult(rewritten(_broken), True, ""), "nowhere", "checker takes"),
    "one name twice": (
        lambda _: PassResult(rewritten(_renamed), True, ""),
        "seen two nodes one",
        "a name of its own",
    ),
    "no name": (
        lambda _: PassResult(rewritten(_nameless), True, ""),
        "seen a node without a name",
        "a name of its own",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_pass_that_lies_is_told_of(lie: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    gives, seen, expected = LIES[lie]
    monkeypatch.setitem(globals(), "GIVES", [gives])
    with pytest.raises(RecipeError) as error:
        run(Mine(), tmp_path)
    assert error.value.id == "user-code"
    assert "mine" in error.value.where
    assert seen in str(error.value)
    assert expected in str(error.value)


def test_of_a_pass_of_rtc_it_is_a_bug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(Mine, "__module__", "rtc.passes.graph.mine")
    monkeypatch.setitem(globals(), "GIVES", [lambda unit: PassResult(unit, True, "")])
    with pytest.raises(InternalError, match="mine: a pass broke its contract"):
        run(Mine(), tmp_path)


@dataclass(frozen=True)
class Planned(Mine):
    name: ClassVar[str] = "planned"
    requires: ClassVar[frozenset[Requirement]] = PLANNED


def test_what_a_pass_requires_is_asked_before_it_runs(tmp_path: Path):
    with pytest.raises(RecipeError) as error:
        run(Planned(), tmp_path)
    assert error.value.id == "pass-requires"
    assert "planned needs a precision plan and a target" in str(error.value)
    assert "take it out of passes" in error.value.fix


def test_a_pass_that_requires_nothing_needs_nothing():
    check_requirements(Mine(), context_for(UNIT))
