"""ONNX Runtime with a fault that is planted: it computes something else at one batch."""

from __future__ import annotations

from collections.abc import Mapping

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.target import BuildRequest, Runner
from rtc.targets.backends.onnxruntime import OnnxRuntime, OrtRunner


class WrongRunner(OrtRunner):
    """Off by a tenth at a batch."""

    def __init__(self, engine: bytes, threads: int, wrong: int) -> None:
        super().__init__(engine, threads)
        self.wrong = wrong

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        factor = 1.1 if len(next(iter(feeds.values()))) == self.wrong else 1.0
        outputs = super().run(feeds)
        return {name: (factor * values).astype(values.dtype) for name, values in outputs.items()}


class WrongRuntime(OnnxRuntime):
    """What it builds is wrong at one batch."""

    def __init__(self, wrong: int) -> None:
        self.wrong = wrong

    def load(self, engine: bytes, request: BuildRequest) -> Runner:
        return WrongRunner(engine, request.threads, self.wrong)
