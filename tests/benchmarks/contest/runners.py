"""How peers run, in a process of their own each (see `rtc.compiler.measure.worker`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contest.nncf_static import BIN, XML
from contest.search import MODEL
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.target import Runner
from rtc.compiler.core.unit import Signature, TensorSpec, Unit
from rtc.compiler.measure.worker import SAMPLES, Args, EagerRunner, Files, LoadedSubject
from rtc.targets.backends.openvino import openvino_quietly


def openvino(files: Files, args: Args) -> LoadedSubject:
    """An OpenVINO IR or ONNX model at batch 1. Args: `threads`, and `precision` where it is set."""
    source = (files[XML], files[BIN]) if XML in files else (files[MODEL], b"")
    runner = OpenVinoRunner(source, threads=args["threads"], precision=args["precision"])
    return LoadedSubject(runner, files[SAMPLES], args[SAMPLES])


def torch_compiled(files: Files, args: Args) -> LoadedSubject:
    """`torch.compile` of a PyTorch unit, default mode. Args: `threads`."""
    runner = CompiledRunner(Unit.from_files(files), threads=args["threads"])
    return LoadedSubject(runner, files[SAMPLES], args[SAMPLES])


class CompiledRunner(EagerRunner):
    def __init__(self, unit: Unit, *, threads: int) -> None:
        super().__init__(unit, threads=threads)
        self._module = self._torch.compile(self._module)


class OpenVinoRunner(Runner):
    """A model compiled for batch 1 with the latency hint; `precision` as OpenVINO's hint, or None.

    Without one OpenVINO itself chooses, bfloat16 where the CPU has it: what a user gets.
    """

    def __init__(self, source: tuple[bytes, bytes], *, threads: int, precision: str | None) -> None:
        core = openvino_quietly().Core()
        model = core.read_model(*source)
        shape = model.input().get_partial_shape()
        shape[0] = 1
        model.reshape(shape)
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
        if precision:
            config["INFERENCE_PRECISION_HINT"] = precision
        compiled = core.compile_model(model, "CPU", config)
        self.signature = Signature(
            (TensorSpec("input", "float32", tuple(shape.to_shape())),),
            (TensorSpec("output", "float32", tuple(compiled.output().get_shape())),),
        )
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._bound: Any = None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self._infer(self._request, feeds["input"])

    def bind(self, feeds: Mapping[str, Array]) -> None:
        self._bound = self._compiled.create_infer_request()
        self._infer(self._bound, feeds["input"].copy())

    def enqueue(self) -> None:
        self._bound.infer()

    def results(self) -> dict[str, Array]:
        return {"output": self._bound.get_output_tensor().data.copy()}

    def close(self) -> None:
        self._bound = self._request = None

    def _infer(self, request: Any, inputs: Array) -> dict[str, Array]:
        request.set_input_tensor(openvino_quietly().Tensor(inputs))
        request.infer()
        return {"output": request.get_output_tensor().data.copy()}
