"""TensorRT-RTX: engines for GeForce and RTX GPUs, built ahead of time and without a GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from rtc.compiler.core.errors import BuilderError, MachineError, ModelError
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.target import (
    Availability,
    Backend,
    BuildRequest,
    Built,
    DeviceProfile,
    QuantScheme,
    Runner,
)
from rtc.targets.backends import onnx_graph, rtx_layers
from rtc.targets.backends.cuda_runner import CudaRunner, find_device, use_device
from rtc.targets.backends.dynamic_products import in_float
from rtc.targets.backends.installed import installed
from rtc.targets.backends.onnx_sizes import Sizes
from rtc.targets.backends.symmetric import make_symmetric

if TYPE_CHECKING:
    from onnx import ModelProto

_TURING = "7.5"
_LISTED = 3  # nodes that an error gives for one operator


class TensorRTRTX(Backend):
    """TensorRT for RTX, ahead of time for one compute capability."""

    name = "tensorrt_rtx"
    extra: ClassVar[str] = "tensorrt-rtx"
    engine_file: ClassVar[str] = "engine.rtx"

    def scheme(self, profile: DeviceProfile) -> QuantScheme:
        """Symmetric INT8 with one weight scale per tensor, FP16 for the rest.

        Read from the plans of 1.7.1 for 8.9: values are quantised in a kernel of their own, and
        with a weight scale per output channel an INT8 convolution writes FP32 and leaves its
        activation to that kernel. The mix of ResNet-18 moves 204 MB that way at batch 8, and 172
        with a scale per tensor; in FP16 the model moves 136 (MobileNetV2: 512, 285, 237). So a
        scale per channel costs the bytes that INT8 is to save. A quantised bias does not parse.
        """
        return QuantScheme(activation="int8", per_channel=False, half="fp16", bias="float")

    def variants(self, profile: DeviceProfile) -> Mapping[Variant, str]:
        if profile.compute_capability != _TURING:
            return {}
        fp32 = "TensorRT-RTX has no FP32 matrix product for compute capability 7.5"
        int8 = "TensorRT-RTX runs INT8 convolutions in float on compute capability 7.5"
        return {Variant.FP32: fp32, Variant.INT8: int8, Variant.MIX: int8}

    def available(self) -> Availability:
        return installed("tensorrt_rtx", distribution="tensorrt-rtx-cu13", extra=self.extra)

    def runnable(self, profile: DeviceProfile) -> Availability:
        builds = self.available()
        if not builds.ok:
            return builds
        try:
            find_device(str(profile.compute_capability), self.extra)
        except MachineError as refusal:
            seen = f" (here: {refusal.seen})" if refusal.seen else ""
            return Availability(ok=False, missing=refusal.what + seen, fix=refusal.fix)
        return builds

    def meets(self, profile: DeviceProfile) -> Mapping[str, frozenset[str]]:
        import tensorrt_rtx as trt

        return {
            "compute_capability": frozenset({str(profile.compute_capability)}),
            "tensorrt_rtx": frozenset({trt.__version__}),
        }

    def build(self, graph: bytes, request: BuildRequest) -> Built:
        import tensorrt_rtx as trt

        model = onnx_graph.parse(graph)
        onnx_graph.drop_empty_ends(model)  # which its parser calls invalid
        notes = (*in_float(model), *make_symmetric(model))
        sizes = Sizes.infer(model)
        _check_quantisation(model, sizes)
        log = _new_log(trt)
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(model.SerializeToString()):
            raise _refusal(_parser_errors(parser))
        config = _config(trt, builder, network, request)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise BuilderError("TensorRT-RTX built no engine", seen=_first_error(trt, log))
        smallest, best, largest = request.batches
        plan = rtx_layers.parse(_layer_list(log))
        batch = best if smallest == largest else None
        return Built(
            engine=bytes(engine),
            layers=rtx_layers.built_layers(plan, model, sizes, batch),
            runtime=f"tensorrt-rtx {trt.__version__}",
            binding={
                "compute_capability": str(request.profile.compute_capability),
                "tensorrt_rtx": trt.__version__,
            },
            notes=notes,
        )

    def load(self, engine: bytes, request: BuildRequest) -> Runner:
        """Check the device before TensorRT-RTX sees a byte: loading an engine runs native code."""
        use_device(str(request.profile.compute_capability), self.extra)
        import tensorrt_rtx as trt

        log = _new_log(trt)
        runtime = trt.Runtime(log)
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise MachineError(
                f"TensorRT-RTX {trt.__version__} does not load the engine",
                seen=_first_error(trt, log),
                id="engine-refused",
            )
        config = loaded.create_runtime_config()
        # Kernels for a new shape are compiled before it runs, not behind the back of what is timed.
        strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = strategy
        context = loaded.create_execution_context(config)
        if context is None:
            raise MachineError(
                "TensorRT-RTX cannot prepare the engine to run",
                seen=_first_error(trt, log),
                id="engine-refused",
            )
        return CudaRunner(trt, loaded, context)


def _new_log(trt: Any) -> Any:
    """A logger that keeps every message and prints none."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the library ships no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append((severity, message))

    return Log()


def _first_error(trt: Any, log: Any) -> str:
    """The first error: without a driver, ones about CUDA follow that have no bearing."""
    levels = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
    errors = (message for level, message in log.lines if level in levels)
    return next(errors, "no message").strip().splitlines()[0]


def _layer_list(log: Any) -> str:
    return next((m for _, m in log.lines if m.startswith("Layers:")), "")


def _config(trt: Any, builder: Any, network: Any, request: BuildRequest) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    capability = _capability(trt, request.profile)
    config.set_compute_capability(capability, 0)
    if config.get_compute_capability(0) != capability:  # the setter only logs what it refuses
        raise BuilderError("TensorRT-RTX did not take the compute capability", seen=str(capability))
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        profile.set_shape(tensor.name, *_shapes(tensor.name, tuple(tensor.shape), request.batches))
    if config.add_optimization_profile(profile) < 0:
        raise BuilderError("TensorRT-RTX did not take the batches", seen=str(request.batches))
    return config


def _capability(trt: Any, profile: DeviceProfile) -> Any:
    wanted = f"SM{(profile.compute_capability or '').replace('.', '')}"
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    if wanted not in known:
        raise BuilderError(
            f"TensorRT-RTX {trt.__version__} does not build for this compute capability",
            where=f"target {profile.name}",
            seen=profile.compute_capability or "none",
            expected=", ".join(f"{name[2:-1]}.{name[-1]}" for name in known),
            id="unsupported-device",
        )
    return getattr(trt.ComputeCapability, wanted)


def _shapes(
    name: str, shape: tuple[int, ...], batches: tuple[int, int, int]
) -> list[tuple[int, ...]]:
    """An input's shape at each of the three batches.

    Raises:
        ModelError: another axis is dynamic, or the graph's batch is fixed and not what is asked.
    """
    if -1 in shape[1:]:
        raise ModelError(
            "only the batch may be dynamic", where=f"input {name}", seen=str(shape), id="dynamic"
        )
    if shape[0] == -1:
        return [(batch, *shape[1:]) for batch in batches]
    if set(batches) != {shape[0]}:
        raise ModelError(
            "the model's batch is fixed",
            where=f"input {name}",
            seen=str(shape[0]),
            expected=f"a dynamic batch, for {', '.join(str(b) for b in sorted(set(batches)))}",
            id="fixed-batch",
        )
    return [shape] * len(batches)


def _refusal(reasons: Iterable[str]) -> ModelError:
    seen = "; ".join(dict.fromkeys(reasons)) or "no reason given"
    return ModelError("TensorRT-RTX does not take the model", seen=seen, id="runtime-refuses")


def _parser_errors(parser: Any) -> Iterator[str]:
    """Why the parser does not take a model; nodes of an operator that it lacks, in one line."""
    lacking: dict[str, list[str]] = defaultdict(list)
    for error in map(parser.get_error, range(parser.num_errors)):
        name, operator = error.node_name(), error.node_operator()
        if operator and not parser.supports_operator(operator):
            lacking[operator].append(name)
            continue
        # Without a driver, lines about CUDA follow that have no bearing.
        lines = (line for line in error.desc().splitlines() if "cudaError 35" not in line)
        reason = " ".join(lines).removeprefix("Assertion failed: ")
        yield f"{name} ({operator}): {reason}" if operator else reason
    for operator, names in lacking.items():
        more = len(names) - _LISTED
        listed = ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
        yield f"{listed} ({operator}): there is no such operator"


def _check_quantisation(model: ModelProto, sizes: Sizes) -> None:
    """Refuse what TensorRT-RTX would take and compute wrongly.

    It reads uint8 as int8, which saturates at 127, and accepts an infinite scale; other scales
    that are no positive numbers it refuses by itself, but are named here with the rest.

    Raises:
        ModelError: every such node, by name.
    """
    import numpy as np
    from onnx import TensorProto, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    reasons = []
    for node in model.graph.node:
        if op_of(node) not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        label = f"{node.name or node.output[0]} ({node.op_type})"
        integers = node.output[0] if op_of(node) == "QuantizeLinear" else node.input[0]
        if sizes.types.get(integers) == TensorProto.UINT8:
            reasons.append(f"{label}: quantised to uint8, TensorRT-RTX has int8 only")
        if node.input[1] in weights:
            scale = numpy_helper.to_array(weights[node.input[1]]).astype(np.float64)
            if not (np.isfinite(scale) & (scale > 0)).all():
                reasons.append(f"{label}: a scale that is not a positive number")
    if reasons:
        raise _refusal(reasons)
