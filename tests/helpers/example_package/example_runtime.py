"""A runtime of another package: ONNX Runtime that fuses nothing, one operator after the other."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, ClassVar

import onnx

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.precision import Precision, Variant
from rtc.compiler.core.target import (
    Availability,
    Backend,
    BuildRequest,
    Built,
    BuiltLayer,
    DeviceProfile,
    QuantScheme,
    Runner,
)
from rtc.targets.backends import onnx_graph


class Plain(Backend):
    """Builds nothing: the engine is the graph, and every node is a layer in FP32."""

    extra: ClassVar[str] = ""
    engine_file: ClassVar[str] = "engine.onnx"

    def scheme(self, profile: DeviceProfile) -> QuantScheme:
        return QuantScheme(activation="uint8")

    def variants(self, profile: DeviceProfile) -> Mapping[Variant, str]:
        return {each: "it computes in FP32" for each in Variant if each is not Variant.FP32}

    def available(self) -> Availability:
        return Availability(ok=True, version=version("example-runtime"))

    def runnable(self, profile: DeviceProfile) -> Availability:
        return self.available()

    def meets(self, profile: DeviceProfile) -> Mapping[str, frozenset[str]]:
        return {"machine": frozenset({platform.machine()})}

    def build(self, graph: bytes, request: BuildRequest) -> Built:
        nodes = onnx.load_from_string(graph).graph.node
        layers = [BuiltLayer(n.name, n.op_type, (n.name,), Precision.FP32) for n in nodes]
        runtime = f"plain {self.available().version}"
        return Built(graph, tuple(layers), runtime, {"machine": platform.machine()})

    def load(self, engine: bytes, request: BuildRequest) -> Runner:
        return PlainRunner(engine, request.threads)


class PlainRunner(Runner):
    """A session that runs the graph's nodes as they stand."""

    def __init__(self, engine: bytes, threads: int) -> None:
        import onnxruntime as ort

        self.signature = onnx_graph.signature(onnx_graph.parse(engine))
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        self._session: Any = ort.InferenceSession(engine, options, ["CPUExecutionProvider"])
        self._feeds: dict[str, Array] = {}
        self._results: dict[str, Array] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.signature.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def bind(self, feeds: Mapping[str, Array]) -> None:
        self._feeds = {name: values.copy() for name, values in feeds.items()}

    def enqueue(self) -> None:
        self._results = self.run(self._feeds)

    def results(self) -> dict[str, Array]:
        return self._results

    def close(self) -> None:
        self._session = None
