"""Where a model goes: what a device is, what a runtime can do with it, and what it built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.closing import Closing
from rtc.compiler.core.errors import MachineError, ModelError
from rtc.compiler.core.precision import Precision, Variant
from rtc.compiler.core.unit import Signature

HalfType = Literal["fp16", "bf16"]
ActivationType = Literal["uint8", "int8", "by-sign"]


@dataclass(frozen=True)
class QuantScheme:
    """How a runtime wants INT8 and its half type written into the graph (FACTS: targets differ).

    Attributes:
        activation: "uint8" (affine, any zero point), "int8" (symmetric, zero point 0), or "by-sign"
            (int8 where a tensor has negative values, uint8 elsewhere: the zero point is always 0).
        per_channel: weight scales per output channel; per tensor where False.
        half: "fp16", "bf16", or None where the runtime gains nothing from a half type.
        half_in_graph: True where Cast nodes carry the half type. False where the runtime takes it
            as one execution precision for every float layer; the graph then says so in its
            metadata (`rtc.half`: "bf16" or "fp16"), and the backend reads it from there.
        bias: "int32" (a DQ of scale input x weight), or "float" where the runtime refuses that.
        quantise_outputs: True where a layer computes in INT8 only if its output (after the
            activation that is fused into it) is quantised as well.
        weight_scales: how scales of weights are chosen: "minmax" clips nothing, "mse" clips where
            the squared error is least. The recipe's choice, not the runtime's.
        int8_ops: ONNX operators with weights that the runtime has an INT8 kernel for.
        paired_products: True where two products are added in 16 bits, which weights have to leave
            room for (`rtc.compiler.core.pairs`) and activations cannot: of two that are multiplied
            one stays float.
        unsigned_after: ONNX operators whose output, where it would be int8 and an INT8 layer reads
            it as it is, is stored as uint8 with zero point 128: the same values, in a type that the
            runtime computes rightly. Nowhere else, for a zero point may be what it fails at.
    """

    activation: ActivationType
    per_channel: bool = True
    half: HalfType | None = None
    half_in_graph: bool = True
    bias: Literal["int32", "float"] = "float"
    quantise_outputs: bool = False
    weight_scales: Literal["minmax", "mse"] = "minmax"
    int8_ops: tuple[str, ...] = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    paired_products: bool = False
    unsigned_after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Peaks:
    """Dense peaks of a device. TFLOPS by precision name; bandwidth in GB/s."""

    bandwidth_gbs: float
    tflops: Mapping[str, float]
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True)
class DeviceProfile:
    """A device as data (`targets/profiles/*.yaml`)."""

    name: str
    vendor: str
    kind: Literal["cpu", "gpu"]
    backends: tuple[str, ...]  # in order of preference
    compute_capability: str | None = None  # "8.9"
    memory_gb: float | None = None
    peaks: Peaks | None = None
    notes: str = ""
    source: str = ""
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True)
class Availability:
    """Whether something works here; where not, what is missing and the command that installs it."""

    ok: bool
    version: str = ""
    missing: str = ""
    fix: str = ""


@dataclass(frozen=True)
class BuildRequest:
    """What a build is asked for.

    `batches` is (smallest, best, largest) batch; `optimise_for` is the second. `threads` is the
    number of CPU threads the engine may use, 0 for the runtime's own choice. `forms` are those of
    `Runner.forms` that batches were found right in; the runtime's usual one where none is given.
    """

    profile: DeviceProfile
    batches: tuple[int, int, int]
    threads: int = 0
    forms: Mapping[int, str] = field(default_factory=dict)

    def refuse_beyond(self, batch: int) -> None:
        """Refuse a batch that no engine was held against its graph at.

        Raises:
            ModelError: it is larger than the largest.
        """
        if batch > self.batches[2]:
            raise ModelError(
                "the engine was not built for this batch",
                seen=str(batch),
                expected=f"at most {self.batches[2]}",
                id="batch-out-of-range",
            )


@dataclass(frozen=True)
class BuiltLayer:
    """A layer as the builder made it.

    Attributes:
        name: the runtime's name for it.
        kind: the runtime's operator or kernel type.
        onnx_nodes: names of the ONNX nodes fused into it; empty where the builder added it.
        precision: what it computes in, the widest where it has several; None where it only moves
            data.
        inputs, outputs: (tensor, datatype, format or layout) as the runtime names them.
        bytes_per_sample: activations read and written for each sample of a batch, if known.
        bytes_fixed: weights, and whatever else is read or written at any batch, if known.
        flops_per_sample: multiply-accumulates × 2 for each sample, if known.
        precision_of: what single ONNX nodes compute in, where that is not `precision`.
    """

    name: str
    kind: str
    onnx_nodes: tuple[str, ...]
    precision: Precision | None
    inputs: tuple[tuple[str, str, str], ...] = ()
    outputs: tuple[tuple[str, str, str], ...] = ()
    bytes_per_sample: int | None = None
    bytes_fixed: int | None = None
    flops_per_sample: int | None = None
    precision_of: Mapping[str, Precision] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """An engine and what the builder says of it.

    `forms`: of each batch that the engine was held against its graph at, the form that it was right
    in; empty where it does not run here. `notes`: what a reader must know of it, for the report.
    """

    engine: bytes
    layers: tuple[BuiltLayer, ...]
    runtime: str  # "onnxruntime 1.31.1"
    binding: Mapping[
        str, str
    ]  # what the engine refuses to run without: {"compute_capability": "8.9"}
    forms: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Runner(Closing):
    """A loaded engine. Feeds and results are numpy arrays by tensor name; a context manager.

    A runtime may know several ways to compute a batch: its `forms`. Which of them is right is found
    by running them (`rtc.compiler.measure.fidelity`), not here.
    """

    signature: Signature

    def forms(self, batch: int) -> tuple[str, ...]:
        """Names of the ways to compute a batch, the usual one first."""
        return ("",)

    def take(self, batch: int, form: str) -> None:
        """Compute a batch in one of its forms from now on, whatever was bound before."""

    @abstractmethod
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs in host memory to outputs in host memory."""

    @abstractmethod
    def bind(self, feeds: Mapping[str, Array]) -> None:
        """Place inputs (and room for outputs) where the device reads them, for `enqueue`."""

    @abstractmethod
    def enqueue(self) -> None:
        """Run once on what `bind` placed, and wait: forward only, no transfer."""

    @abstractmethod
    def results(self) -> dict[str, Array]:
        """What the last `enqueue` computed, copied to host memory: the measured run is checked."""

    @abstractmethod
    def close(self) -> None:
        """Free what the runtime holds."""


class Backend(ABC):
    """One per runtime. Heavy imports happen inside the methods."""

    name: str  # what it is found by, as whoever finds it says: "openvino", "my_runtime:Mine"
    extra: ClassVar[str]  # the extra of rtc's that installs it, "openvino"; "" where none does
    engine_file: ClassVar[str]  # the engine's file name in a bundle: "engine.onnx"

    @abstractmethod
    def scheme(self, profile: DeviceProfile) -> QuantScheme:
        """How this runtime wants the graph on that device."""

    @abstractmethod
    def variants(self, profile: DeviceProfile) -> Mapping[Variant, str]:
        """Variants to leave out on that device, and why; an empty mapping leaves none out."""

    @abstractmethod
    def available(self) -> Availability:
        """Whether engines can be built here."""

    @abstractmethod
    def runnable(self, profile: DeviceProfile) -> Availability:
        """Whether engines for that device can be run here."""

    @abstractmethod
    def meets(self, profile: DeviceProfile) -> Mapping[str, frozenset[str]]:
        """What this machine has for each key of `Built.binding`, where `runnable` says yes."""

    @abstractmethod
    def build(self, graph: bytes, request: BuildRequest) -> Built:
        """Build an engine from a serialised ONNX model. Runs in a child process.

        Raises:
            ModelError: the runtime cannot take this graph; every reason it gives is listed.
            BuilderError: the builder failed.
        """

    def instead(self, graph: bytes) -> Iterator[tuple[bytes, str]]:
        """Graphs that compute exactly the same, for where the runtime fails at the usual one.

        Each with what is other about it, for a note: "with its Concats in uint8". None by default.
        """
        return iter(())

    @abstractmethod
    def load(self, engine: bytes, request: BuildRequest) -> Runner:
        """Load an engine whose bytes were verified.

        Raises:
            MachineError: this machine is not one it runs on; both versions or devices are named.
        """

    def build_and_load(self, graph: bytes, request: BuildRequest) -> tuple[Built, Runner]:
        """Build an engine that runs here, and load it; quicker where compiling once does for both.

        Raises:
            RtcError: as `build` and `load`.
        """
        built = self.build(graph, request)
        return built, self.load(built.engine, request)

    def layer_times(
        self,
        engine: bytes,
        request: BuildRequest,
        layers: Sequence[BuiltLayer],
        feeds: Mapping[str, Array],
        seconds: float,
    ) -> tuple[float | None, ...]:
        """What each kernel takes on this machine, as the runtime's own profiler tells it.

        Profiling slows a runtime down, small kernels most: these times compare the layers of
        engines; their sum is not the engine's latency.

        Args:
            engine: bytes that were verified.
            request: what it was built for.
            layers: `Built.layers` of that engine.
            feeds: inputs by name; their batch is the one that is timed.
            seconds: how long to run it, compiling apart.

        Returns:
            The typical microseconds of each of `layers`, in their order; None where the profiler
            does not list one.

        Raises:
            MachineError: rtc has no profiler for this runtime (id "no-profiler"), or this machine
                is not one that the engine runs on.
        """
        raise MachineError(f"kernels of {self.name} cannot be timed one by one", id="no-profiler")
