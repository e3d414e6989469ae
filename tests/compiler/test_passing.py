"""How many samples a pass is held against its bound on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.passes import Bound, Bounded, Exact, Pass, PassContext, PassResult
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.unit import Level, OnnxModel, Signature, TensorSpec, Unit
from rtc.compiler.passing import run_pass
from rtc.compiler.stages import Stages
from rtc.compiler.store import Store

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
            axes = Constant <value_ints = [1]> ()
            mean = ReduceMean (x, axes)
            zero = Sub (mean, mean)
            y = Concat <axis = 1> (mean, zero)
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
    assert passed.certificate.samples == samples
