"""Small models and data for the tests here; children import the entries and the factory by name."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.unit import OnnxModel, Signature, TensorSpec, Unit
from rtc.compiler.measure.worker import Files, LoadedSubject, ReferenceRunner, Reply

if TYPE_CHECKING:
    from torch import nn

CLASSES, FEATURES = 4, 6
WEIGHTS = np.random.default_rng(3).normal(size=(FEATURES, CLASSES)).astype(np.float32)


def signature(batch: int | str = "batch", output: str = "logits") -> Signature:
    return Signature(
        (TensorSpec("input", "float32", (batch, FEATURES)),),
        (TensorSpec(output, "float32", (batch, CLASSES)),),
    )


def linear(
    weights: np.ndarray = WEIGHTS,
    tail: str = "Identity(y)",
    batch: int | str = "batch",
    opset: int = 20,
) -> Unit:
    """`logits = tail(input @ weights)` as an ONNX unit."""
    import onnx

    values = ", ".join(f"{value:.9g}" for value in weights.ravel())
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
        linear (float[{batch}, {FEATURES}] input) => (float[{batch}, {CLASSES}] logits)
        <float[{FEATURES}, {CLASSES}] w = {{{values}}}> {{
            y = MatMul(input, w)
            logits = {tail}
        }}"""
    proto = onnx.parser.parse_model(text).SerializeToString()
    return Unit(OnnxModel(proto), signature(batch))


def torch_linear(bias: float = 0.0) -> nn.Module:
    """`linear()` as a PyTorch module."""
    import torch

    module = torch.nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(WEIGHTS.T.copy()))
        module.bias.fill_(bias)
    return module


def samples(count: int = 100) -> Split:
    """Raw samples 0 to 255, labelled by `linear()` itself: its accuracy is 1."""
    raw = np.random.default_rng(5).integers(0, 256, (count, FEATURES), np.uint8)
    preprocess = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,))
    return Split("test", raw, (preprocess(raw) @ WEIGHTS).argmax(axis=1), preprocess)


class DiesWhenTimed(LoadedSubject):
    """Infers like any other, and crashes at its second request to be timed."""

    calls = 0

    def ask(self, request: dict[str, Any], files: Files) -> Reply:
        self.calls += request["op"] == "time"
        if self.calls == 2:
            ctypes.string_at(0)
        return super().ask(request, files)


def dies_when_timed(files: Files, args: Mapping[str, Any]) -> DiesWhenTimed:
    runner = ReferenceRunner(Unit.from_files(files))
    return DiesWhenTimed(runner, files["samples"], args["samples"])


class Forgetful(ReferenceRunner):
    """Computes nothing when it is timed."""

    def enqueue(self) -> None:
        self._outputs = {"logits": np.zeros((len(self._inputs), CLASSES), np.float32)}


def forgetful(files: Files, args: Mapping[str, Any]) -> LoadedSubject:
    return LoadedSubject(Forgetful(Unit.from_files(files)), files["samples"], args["samples"])


class WrongAtEight(ReferenceRunner):
    """A runtime that miscompiles the engine of one batch."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs = super().run(feeds)
        wrong = len(outputs["logits"]) == 8
        return {"logits": outputs["logits"][:, ::-1].copy()} if wrong else outputs


def wrong_at_eight(files: Files, args: Mapping[str, Any]) -> LoadedSubject:
    return LoadedSubject(WrongAtEight(Unit.from_files(files)), files["samples"], args["samples"])


class Slow(ReferenceRunner):
    """Takes longer for a batch than a turn is meant to."""

    def enqueue(self) -> None:
        time.sleep(0.06)
        super().enqueue()


def slow(files: Files, args: Mapping[str, Any]) -> LoadedSubject:
    return LoadedSubject(Slow(Unit.from_files(files)), files["samples"], args["samples"])
