"""OpenVINO on the CPU. The engine is the ONNX graph with its execution precision in its metadata.

An exported blob is not shipped: it differs on every export, is tied to one OpenVINO version and
instruction set, and does not keep its precision (2026.4: a blob compiled for f32 runs in bf16 when
imported on a machine whose default that is).
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import MachineError, ModelError
from rtc.compiler.core.operators import HALF_KEY
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.target import (
    Availability,
    Backend,
    BuildRequest,
    Built,
    BuiltLayer,
    DeviceProfile,
    HalfType,
    QuantScheme,
    Runner,
)
from rtc.targets.backends import joined, onnx_graph, profiling, x86
from rtc.targets.backends.installed import installed
from rtc.targets.backends.openvino_layers import built_layers

if TYPE_CHECKING:
    from onnx import ModelProto

_HINTS = {"": "f32", "bf16": "bf16", "fp16": "f16"}
_HALVES: dict[str, HalfType] = {"bf16": "bf16", "f16": "fp16"}
_FIXED, _ANY, _FILLED = "fixed shape", "any shape", "filled up"
"""Forms of a batch: a model compiled for it, one for all batches, or a larger batch's samples."""
_LISTED = 3  # layers that an error names


class OpenVino(Backend):
    """OpenVINO's CPU plugin."""

    name = "openvino"
    extra: ClassVar[str] = "openvino"
    engine_file: ClassVar[str] = "engine.onnx"

    def scheme(self, profile: DeviceProfile) -> QuantScheme:
        """As for ONNX Runtime, but that a zero point costs: it is kept 0.

        Measured with 2026.4 on ResNet-20 at batch 1: 149 µs, with affine activations 164 µs.
        """
        return QuantScheme(
            activation="by-sign",
            half=_native_half(),
            half_in_graph=False,
            bias="int32",
            quantise_outputs=True,
            int8_ops=("Conv", "Gemm", "MatMul"),  # ConvTranspose stays float
            paired_products=x86.adds_in_16_bits(),
            # 2026.4: a signed one that an INT8 layer reads is computed wrongly; one with a zero
            # point that comes to another Q by sums and factors alone crashes the compiler, which
            # takes these into that Q and then looks for the scale in its MoveFakeQuantize.
            unsigned_after=("Concat",),
        )

    def variants(self, profile: DeviceProfile) -> Mapping[Variant, str]:
        return {} if _native_half() else {Variant.HALF: "this CPU has no native half type"}

    def available(self) -> Availability:
        return installed("openvino", extra=self.extra)

    def runnable(self, profile: DeviceProfile) -> Availability:
        return self.available()

    def meets(self, profile: DeviceProfile) -> Mapping[str, frozenset[str]]:
        has = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        halves = frozenset(half for half in _HALVES.values() if half.upper() in has)
        return {
            "machine": frozenset({platform.machine()}),
            "half": halves,
            x86.KEY: x86.has(),
        }

    def build(self, graph: bytes, request: BuildRequest) -> Built:
        """The graph as it is, after OpenVINO has compiled it and shown what it makes of it."""
        built, runner = self.build_and_load(graph, request)
        runner.close()
        return built

    def build_and_load(self, graph: bytes, request: BuildRequest) -> tuple[Built, Runner]:
        model = onnx_graph.parse(graph)
        half = _half(model)
        wide = () if x86.in_floats(model) else x86.overflowing(model)
        if wide and x86.adds_in_16_bits():
            raise ModelError(
                "INT8 products that may overflow on this CPU, and OpenVINO would not say so",
                where=", ".join(wide[:_LISTED]),
                seen="products added in 16 bits, of weights whose neighbours add up to more than "
                "128 or of two activations",
                fix="let rtc quantise the float model, or compile for onnxruntime",
                id="overflowing-weights",
            )
        runner = OpenVinoRunner(graph, request)
        built = Built(
            engine=graph,
            layers=runner.layers(onnx_graph.NodeIndex(tuple(model.graph.node))),
            runtime=f"openvino {self.available().version}",
            binding={
                "machine": platform.machine(),
                **({"half": half} if half else {}),
                **({x86.KEY: x86.WIDE} if wide else {}),
            },
        )
        return built, runner

    def instead(self, graph: bytes) -> Iterator[tuple[bytes, str]]:
        model = onnx_graph.parse(graph)
        for change, words in joined.FORMS:
            if change(model):
                yield model.SerializeToString(deterministic=True), words

    def load(self, engine: bytes, request: BuildRequest) -> Runner:
        return OpenVinoRunner(engine, request)

    def layer_times(
        self,
        engine: bytes,
        request: BuildRequest,
        layers: Sequence[BuiltLayer],
        feeds: Mapping[str, Array],
        seconds: float,
    ) -> tuple[float | None, ...]:
        with closing(OpenVinoRunner(engine, request, profile=True)) as runner:
            return profiling.by_layer(layers, runner.kernel_times(feeds, seconds))


class OpenVinoRunner(Runner):
    """One compiled model for each batch that was asked for, and one for all others.

    A model of fixed shape is faster (measured at batch 1: 62 against 86 µs), so each batch of the
    request gets its own when it is first used; the best one when the engine is loaded. Either kind
    has been seen to compute garbage where the other does not (2026.4: INT8 products below batch 16,
    and FP32 attention with as many heads as tokens, of fixed shape; INT8 products of any shape). So
    each is a form, and so is a batch filled up to one of the request's, whose model is known then.
    """

    def __init__(self, engine: bytes, request: BuildRequest, *, profile: bool = False) -> None:
        model = onnx_graph.parse(engine)
        self.signature = onnx_graph.signature(model)
        self._engine = engine
        self._config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_PRECISION_HINT": _HINTS[_half(model)],
            # Else float products of INT8 weights get activations quantised that no plan asked for.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        }
        if profile:
            self._config["PERF_COUNT"] = "YES"
        if request.threads:
            self._config["INFERENCE_NUM_THREADS"] = str(request.threads)
        self._built_for, self._asked = request, tuple(sorted(set(request.batches)))
        self._forms = dict(request.forms)
        self._requests: dict[int | None, Any] = {}
        self._best = request.batches[1]
        self._inputs: dict[str, Array] = {}
        self._bound: Any = None
        self._count: int | None = None
        if not profile:
            self._request(self._best)

    def forms(self, batch: int) -> tuple[str, ...]:
        return (_FIXED, _ANY) if batch in self._asked else (_ANY, _FILLED)

    def take(self, batch: int, form: str) -> None:
        self._forms[batch] = form

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        arrays, count = self._filled(_contiguous(feeds))
        request = self._request(_batch(arrays))
        _place(request, arrays)
        _infer(request)
        return self._read(request, count)

    def bind(self, feeds: Mapping[str, Array]) -> None:
        """Copy the inputs, and give them a request of their own that `run` does not disturb."""
        filled, self._count = self._filled(_contiguous(feeds))
        self._inputs = {name: array.copy() for name, array in filled.items()}
        compiled = self._request(_batch(self._inputs)).get_compiled_model()
        self._bound = compiled.create_infer_request()
        _place(self._bound, self._inputs)

    def enqueue(self) -> None:
        _infer(self._bound)

    def results(self) -> dict[str, Array]:
        return self._read(self._bound, self._count)

    def close(self) -> None:
        self._bound, self._inputs = None, {}
        self._requests.clear()

    def layers(self, index: onnx_graph.NodeIndex) -> tuple[BuiltLayer, ...]:
        """What the model of the best batch is made of, in execution order."""
        # Kernels of fully connected layers are chosen when they first run.
        return built_layers(self._tried().get_compiled_model(), index)

    def _tried(self) -> Any:
        """The request of the best batch after a run, in its form or else the first that runs."""
        zeros, failed = self._zeros(), list[ModelError]()
        for form in dict.fromkeys((self._form(self._best), *self.forms(self._best))):
            self.take(self._best, form)
            try:
                request = self._request(self._best)
                _place(request, zeros)  # a model of any batch has inputs of none until then
                _infer(request)
            except ModelError as error:
                failed.append(error)
            else:
                return request
        raise failed[0]

    def _zeros(self) -> dict[str, Array]:
        """Inputs of the best batch, with 1 for any other axis that is dynamic."""
        return {
            spec.name: np.zeros(
                (self._best, *(axis if isinstance(axis, int) else 1 for axis in spec.shape[1:])),
                spec.dtype,
            )
            for spec in self.signature.inputs
        }

    def kernel_times(self, feeds: Mapping[str, Array], seconds: float) -> dict[str, float]:
        """Mean microseconds of each kernel at the feeds' batch, of a runner that profiles.

        OpenVINO gives the mean of all runs since it compiled the model; the first runs, which take
        several times longer, are taken out of it.
        """
        self.bind(feeds)
        for _ in range(profiling.WARMUP):
            self.enqueue()
        first = self._means()
        count = profiling.repeat(self.enqueue, seconds)
        before, after = profiling.WARMUP / count, 1 + profiling.WARMUP / count
        return {
            name: max(0.0, after * mean - before * first[name]) + profiling.HALF_US
            if mean
            else 0.0  # nothing to run: a constant, or a part of another kernel
            for name, mean in self._means().items()
        }

    def _means(self) -> dict[str, float]:
        return {k.node_name: k.real_time.total_seconds() * 1e6 for k in self._bound.profiling_info}

    def _read(self, request: Any, count: int | None) -> dict[str, Array]:
        names = (spec.name for spec in self.signature.outputs)
        return {name: request.get_tensor(name).data[:count].copy() for name in names}

    def _form(self, batch: int) -> str:
        return self._forms.get(batch) or self.forms(batch)[0]

    def _filled(self, arrays: dict[str, Array]) -> tuple[dict[str, Array], int | None]:
        """The samples, or the larger batch that they are the first of and how many they are."""
        count = _batch(arrays)
        self._built_for.refuse_beyond(count)
        if self._form(count) != _FILLED:
            return arrays, None
        whole = range(next(size for size in self._asked if size > count))
        filled = {
            name: np.take(array, whole, axis=0, mode="clip") for name, array in arrays.items()
        }
        return filled, count

    def _request(self, batch: int) -> Any:
        key = batch if self._form(batch) == _FIXED else None
        if key not in self._requests:
            compiled = _compile(self._engine, key, self._config)
            self._requests[key] = compiled.create_infer_request()
        return self._requests[key]


def _contiguous(feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(array) for name, array in feeds.items()}


def _batch(feeds: Mapping[str, Array]) -> int:
    return len(next(iter(feeds.values())))


def _place(request: Any, arrays: Mapping[str, Array]) -> None:
    """Let the request read these arrays where they lie; they must outlive its next run."""
    ov = openvino_quietly()
    for name, array in arrays.items():
        request.set_tensor(name, ov.Tensor(array, shared_memory=True))


def _infer(request: Any) -> None:
    """Run once.

    Raises:
        ModelError: OpenVINO compiled the model, and cannot run it like that.
    """
    try:
        request.infer()
    except RuntimeError as cause:
        raise ModelError(
            "OpenVINO does not run the model", seen=_reasons(str(cause)), id="runtime-refuses"
        ) from cause


def openvino_quietly() -> Any:
    """The `openvino` module, imported without its telemetry.

    Importing it sends an event to a server, from a forked process, unless `openvino_telemetry`
    cannot be imported; OpenVINO then uses a stub of its own.
    """
    cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
    import openvino

    return openvino


@cache
def _core() -> Any:
    return openvino_quietly().Core()


def _native_half() -> HalfType | None:
    """The half type that OpenVINO itself chooses on this CPU: it does so where that is native."""
    hint = _core().get_property("CPU", "INFERENCE_PRECISION_HINT")
    return _HALVES.get(hint.get_type_name())


def _half(model: ModelProto) -> str:
    """The half type that a graph's metadata asks for, or "".

    Raises:
        ModelError: a type that OpenVINO does not know.
        MachineError: this CPU does not have it.
    """
    asked = next((prop.value for prop in model.metadata_props if prop.key == HALF_KEY), "")
    if asked not in _HINTS:
        raise ModelError(
            "an unknown half type in the model's metadata",
            where=HALF_KEY,
            seen=repr(asked),
            expected="bf16 or fp16",
        )
    has = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if asked and asked.upper() not in has:
        raise MachineError(
            "this engine needs a CPU with another half type",
            seen=", ".join(sorted(has)),
            expected=asked.upper(),
            fix="compile the recipe on this machine",
            id="wrong-device",
        )
    return asked


def _compile(graph: bytes, batch: int | None, config: Mapping[str, str]) -> Any:
    """The compiled model, for one batch size or (None) for any.

    Raises:
        ModelError: OpenVINO cannot take the model; it lists every operator that it lacks.
    """
    core = _core()
    try:
        model = core.read_model(graph, b"")
        if batch is not None:
            model.reshape({port: _with_batch(port, batch) for port in model.inputs})
        return core.compile_model(model, "CPU", dict(config))
    except RuntimeError as cause:
        raise ModelError(
            "OpenVINO does not take the model", seen=_reasons(str(cause)), id="runtime-refuses"
        ) from cause


def _with_batch(port: Any, batch: int) -> Any:
    shape = port.get_partial_shape()
    if shape[0].is_dynamic:
        shape[0] = batch
    return shape


def _reasons(message: str) -> str:
    """OpenVINO's message without the places in its own source."""
    lines = [line.strip() for line in message.splitlines()]
    reasons = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
    rest = [line for line in lines if line and not line.startswith(("Exception from", "Check "))]
    return "; ".join(reasons or rest[:1])
