"""ONNX Runtime on the CPU. The engine is the ONNX graph itself; it is optimised when it is loaded.

A graph that was optimised beforehand is bound to one kind of CPU and no faster, so none is shipped.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import ModelError, first_line
from rtc.compiler.core.exact_products import write_out
from rtc.compiler.core.operators import WEIGHTED, op_of
from rtc.compiler.core.precision import Variant
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
from rtc.targets.backends import onnx_graph, profiling, x86
from rtc.targets.backends.installed import installed
from rtc.targets.backends.ort_layers import built_layers

MISCOMPILES = ("Pad_Fusion",)
"""Optimisers that change results before 1.32: `Pad(0) → MaxPool` of negative values."""

_ROUNDS_WEIGHTS = "WeightBiasQuantization"
"""Makes INT8 of a layer that stands between Q/DQ pairs: of a bias in float, as is wanted, and of
weights that the graph keeps in float as well (seen with 1.32)."""

_EXACT = {
    # INT8 weights under a float MatMul would get activations quantised that no plan asked for.
    "session.qdq_matmulnbits_accuracy_level": "1",
}
_WIDENED = {
    # Makes constant weights uint8, whose products do not saturate; INT8 then runs at a third of its
    # speed. ONNX Runtime 1.31 does so on CPUs with VNNI as well, where there is nothing to mend. It
    # does nothing for int8 activations, and there are no kernels for int8 by uint8.
    "session.x64quantprecision": "1",
}
_UNFUSED = {"session.disable_quant_qdq": "1"}  # Q and DQ compute in float, as they stand
_KERNEL = "_kernel_time"  # ends the name of a kernel's event in a profile


class OnnxRuntime(Backend):
    """ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    extra: ClassVar[str] = ""  # rtc itself needs it
    engine_file: ClassVar[str] = "engine.onnx"

    def scheme(self, profile: DeviceProfile) -> QuantScheme:
        """Measured with 1.31: a Conv runs in INT8 only between Q/DQ pairs on its input and output.

        Activations are uint8: int8 ones are several times slower on x86. A Gemm whose output stays
        float needs its bias as int32.
        """
        return QuantScheme(
            activation="uint8",
            bias="int32",
            quantise_outputs=True,
            int8_ops=("Conv", "Gemm", "MatMul"),  # no integer kernel for ConvTranspose
            paired_products=x86.adds_in_16_bits(),
        )

    def variants(self, profile: DeviceProfile) -> Mapping[Variant, str]:
        return {Variant.HALF: "ONNX Runtime on a CPU runs FP16 operators in FP32, between casts"}

    def available(self) -> Availability:
        return installed("onnxruntime", extra=self.extra)

    def runnable(self, profile: DeviceProfile) -> Availability:
        return self.available()

    def meets(self, profile: DeviceProfile) -> Mapping[str, frozenset[str]]:
        return {"machine": frozenset({platform.machine()})}

    def build(self, graph: bytes, request: BuildRequest) -> Built:
        """The graph as it is, after ONNX Runtime has accepted it and shown what it makes of it."""
        import onnx

        original = onnx_graph.parse(graph)
        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder) / "optimised.onnx"
            _session(graph, request.threads, optimised)
            layers = built_layers(original, onnx.load(optimised))
        return Built(
            engine=graph,
            layers=layers,
            runtime=f"onnxruntime {self.available().version}",
            binding={"machine": platform.machine()},
        )

    def load(self, engine: bytes, request: BuildRequest) -> Runner:
        return OrtRunner(engine, request.threads)

    def layer_times(
        self,
        engine: bytes,
        request: BuildRequest,
        layers: Sequence[BuiltLayer],
        feeds: Mapping[str, Array],
        seconds: float,
    ) -> tuple[float | None, ...]:
        with tempfile.TemporaryDirectory() as folder:
            session = _session(engine, request.threads, profile=Path(folder) / "kernels")
            profiling.repeat(lambda: session.run(None, dict(feeds)), seconds)
            events = json.loads(Path(session.end_profiling()).read_bytes())
        return profiling.by_layer(layers, _kernel_times(events))


class OrtRunner(Runner):
    """A session; any batch size."""

    def __init__(self, engine: bytes, threads: int) -> None:
        self.signature = onnx_graph.signature(onnx_graph.parse(engine))
        self._outputs = [spec.name for spec in self.signature.outputs]
        self._session = _session(engine, threads)
        self._binding: Any = None
        self._inputs: dict[str, Any] = {}
        self._values: list[Any] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            values = self._session.run(self._outputs, dict(feeds))
        except Exception as cause:
            raise _refusal("run", cause) from cause
        return dict(zip(self._outputs, values, strict=True))

    def bind(self, feeds: Mapping[str, Array]) -> None:
        """Keep the inputs, and let one run allocate outputs of the right shapes for later runs."""
        import onnxruntime as ort

        self._inputs = {n: ort.OrtValue.ortvalue_from_numpy(a.copy()) for n, a in feeds.items()}
        self._values = [ort.OrtValue.ortvalue_from_numpy(a) for a in self.run(feeds).values()]
        self._binding = self._session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in zip(self._outputs, self._values, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def enqueue(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as cause:
            raise _refusal("run", cause) from cause

    def results(self) -> dict[str, Array]:
        values = (value.numpy().copy() for value in self._values)
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        self._binding = self._session = None
        self._inputs, self._values = {}, []


def _kernel_times(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Microseconds of each node of the optimised graph, of a profile's events in order."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event["name"].endswith(_KERNEL):
            times[event["name"].removesuffix(_KERNEL)].append(event["dur"])
    return {
        name: profiling.midmean(seen[profiling.WARMUP :] or seen) + profiling.HALF_US
        for name, seen in times.items()
    }


def _session(
    graph: bytes, threads: int, optimised: Path | None = None, profile: Path | None = None
) -> Any:
    """An optimised session over a serialised model, in which no product of integers saturates.

    Args:
        graph: the model.
        threads: CPU threads; 0 for the runtime's own choice.
        optimised: a file to write what it makes of the model to.
        profile: how the file begins that it records the time of every kernel in.

    Raises:
        ModelError: ONNX Runtime does not take the model.
    """
    graph, settings = _unsaturated(graph)
    return _load(graph, threads, settings, optimised, profile)


def _unsaturated(graph: bytes) -> tuple[bytes, Mapping[str, str]]:
    """A graph for this CPU, and settings for its session.

    Where products are added in 16 bits, the first of these for which none can saturate in what
    ONNX Runtime makes of it: the graph as it is; with its weights widened; with every product of
    integers written out, and Q and DQ in float.
    """
    import onnx

    model = onnx_graph.parse(graph)
    if not (x86.adds_in_16_bits() and x86.overflowing(model, unsigned=False)):
        return graph, {}
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        for settings in ({}, _WIDENED):
            with suppress(ModelError):  # kernels may be missing for widened weights
                _load(graph, 1, settings, optimised)
                if not x86.saturating(onnx.load(optimised)):
                    return graph, settings
    return write_out(graph), _UNFUSED


def _load(
    graph: bytes,
    threads: int,
    settings: Mapping[str, str],
    optimised: Path | None = None,
    profile: Path | None = None,
) -> Any:
    """An optimised session with these settings beside those that every one has."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for key, value in {**_EXACT, **settings}.items():
        options.add_session_config_entry(key, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    try:
        return ort.InferenceSession(
            graph,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[*MISCOMPILES, *_misled(graph)],
        )
    except Exception as cause:
        raise _refusal("take", cause) from cause


def _misled(graph: bytes) -> tuple[str, ...]:
    """The optimisers that would round weights of this graph which it keeps in float."""
    model = onnx_graph.parse(graph)
    dequantised = {
        output
        for node in model.graph.node
        if op_of(node) == "DequantizeLinear"
        for output in node.output
    }
    kept = any(
        op_of(node) in WEIGHTED
        and node.input[0] in dequantised
        and node.input[1] not in dequantised
        for node in model.graph.node
    )
    return (_ROUNDS_WEIGHTS,) if kept else ()


def _refusal(what: str, cause: Exception) -> ModelError:
    """An error of ONNX Runtime's, which have no other class in common, as one of rtc's."""
    said = f"ONNX Runtime does not {what} the model"
    return ModelError(said, seen=first_line(cause), id="runtime-refuses")
