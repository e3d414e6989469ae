"""What a pass is held against, and on how many samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import GateError
from rtc.compiler.core.passes import Bound, Bounded, Exact, Pass, PassContext, PassResult, Stated
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.unit import Level, OnnxModel, Signature, TensorSpec, Unit
from rtc.compiler.execution.certified_pass import Passed, run_pass
from rtc.compiler.execution.stages import Stages
from rtc.compiler.storage.store import Store

SIZE = 400 * 400


@dataclass(frozen=True)
class Data:
    """Only what a certificate takes."""

    test: Split
    digest: str = "noise"


@dataclass(frozen=True)
class Signs(Pass):
    """Changes what a model says of itself, if that, and promises that it computes the same."""

    name = "signs"
    takes = gives = Level.ONNX
    limit: float = 0.0
    text: str = "signed"

    @property
    def bound(self) -> Bound:
        return Bounded("disagreement", self.limit) if self.limit else Exact()

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        import onnx

        if not self.text:
            return PassResult(unit, False, "nothing to do")
        model = onnx.load_model_from_string(unit.onnx.proto)
        model.doc_string = self.text
        signed = Unit(OnnxModel(model.SerializeToString()), unit.signature)
        return PassResult(signed, True, "signed")


def wide(size: int) -> Unit:
    """A mean over inputs, beside a zero."""
    import onnx

    text = f"""<ir_version: 10, opset_import: ["" : 18]>
        wide (float[n, {size}] x) => (float[n, 2] y) {{
            [axes] axes = Constant <value_ints = [1]> ()
            [mean] mean = ReduceMean (x, axes)
            [zero] zero = Sub (mean, mean)
            [y] y = Concat <axis = 1> (mean, zero)
        }}"""
    proto = onnx.parser.parse_model(text).SerializeToString()
    tensors = (TensorSpec("x", "float32", ("n", size)),), (TensorSpec("y", "float32", ("n", 2)),)
    return Unit(OnnxModel(proto), Signature(*tensors))


@pytest.mark.parametrize(
    ("step", "size", "samples"),
    [
        (Signs(), SIZE, 104),
        (Signs(0.05), SIZE, 104),
        (Signs(), 1000, 256),
        (Signs(), 2 * SIZE, 64),
        (Signs(text=""), SIZE, 16),
        (Signs(0.05, ""), SIZE, 16),
    ],
    ids=["every element", "a share", "small inputs", "large inputs", "not a byte", "share of none"],
)
def test_a_promise_is_checked_on_as_many_samples_as_it_needs(
    tmp_path: Path, step: Signs, size: int, samples: int
) -> None:
    raw = np.broadcast_to(np.arange(300, dtype=np.float32)[:, None], (300, size))
    data = Data(Split("test", raw, None, Preprocess()))
    stages = Stages(Store(tmp_path), Nobody())
    passed = run_pass(step, wide(size), PassContext(data), stages)
    (row,) = passed.certificates
    assert row.samples == samples


@dataclass(frozen=True)
class Rounds(Pass):
    """States that a model rounds its input, and does that; `more` is what it does besides."""

    name = "rounds"
    takes = gives = Level.ONNX
    limit: float = 1.0
    more: float = 1.0

    @property
    def bound(self) -> Bound:
        return Bounded("disagreement", self.limit)

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        made = scaled("Round", self.more)
        return PassResult(made, True, "rounded", stated=Stated(scaled("Round", 1.0)))


def scaled(op: str, factor: float) -> Unit:
    import onnx

    text = f"""<ir_version: 10, opset_import: ["" : 18]>
        scaled (float[n, 2] x) => (float[n, 2] y) <float[2] w = {{1, {factor}}}> {{
            [z] z = {op}(x)
            [y] y = Mul(z, w)
        }}"""
    proto = onnx.parser.parse_model(text).SerializeToString()
    tensors = (TensorSpec("x", "float32", ("n", 2)),), (TensorSpec("y", "float32", ("n", 2)),)
    return Unit(OnnxModel(proto), Signature(*tensors))


def run_rounds(step: Rounds, folder: Path) -> Passed:
    raw = np.random.default_rng(3).uniform(-9, 9, (200, 2)).astype(np.float32)
    data = Data(Split("test", raw, None, Preprocess()))
    return run_pass(
        step, scaled("Identity", 1.0), PassContext(data), Stages(Store(folder), Nobody())
    )


def test_a_stated_change_has_its_bound_and_all_else_is_exact(tmp_path: Path) -> None:
    passed = run_rounds(Rounds(), tmp_path)
    change, rest = passed.certificates
    assert (change.stage, change.exact) == ("rounds: the change that it states", False)
    assert (rest.stage, rest.exact, rest.measured) == ("rounds", True, "identical")
    assert (change.after, rest.after) == (rest.before, passed.unit.digest)
    assert run_rounds(Rounds(), tmp_path) == passed  # from the store


def test_what_is_done_beside_the_stated_change_is_not_covered_by_its_bound(tmp_path: Path) -> None:
    """Few classes change by it, fewer than by rounding."""
    with pytest.raises(GateError, match=r"rounds: the pass broke its bound .*differs by") as caught:
        run_rounds(Rounds(more=1.01), tmp_path)
    assert caught.value.id == "pass-broke-bound"


def test_a_stated_change_does_not_escape_its_own_bound(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"the change that it states: the pass broke its bound"):
        run_rounds(Rounds(limit=0.001), tmp_path)
