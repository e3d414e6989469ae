"""Engines of TensorRT's API on an NVIDIA GPU: the device, its memory and one stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import DataError, MachineError
from rtc.compiler.core.target import Runner
from rtc.compiler.core.unit import Signature, TensorSpec


def find_device(compute_capability: str, extra: str) -> int:
    """The index of the first CUDA device of that compute capability ("8.9").

    Raises:
        MachineError: CUDA's bindings are not installed ("missing-extra"), there is no driver or no
            device ("no-device"), a driver too old ("old-driver"), or only others ("wrong-device").
    """
    try:
        from cuda.bindings import runtime as cuda
    except ImportError as cause:
        fix = f"pip install 'rtc-compiler[{extra}]'"
        raise MachineError("cuda-bindings is not installed", fix=fix, id="missing-extra") from cause
    _check_driver(cuda)
    error, count = cuda.cudaGetDeviceCount()
    if error != cuda.cudaError_t.cudaSuccess or count == 0:
        raise MachineError("no CUDA device is visible", seen=error.name, id="no-device")
    seen = []
    for device in range(count):
        capability = _compute_capability(cuda, device)
        if capability == compute_capability:
            return device
        seen.append(capability)
    raise MachineError(
        "no GPU here is of the compute capability that the engine is built for",
        seen=", ".join(seen),
        expected=compute_capability,
        fix="compile for this machine's GPU, or run the engine on its own",
        id="wrong-device",
    )


def use_device(compute_capability: str, extra: str) -> None:
    """Make the first device of that compute capability this thread's; raises as `find_device`."""
    device = find_device(compute_capability, extra)
    from cuda.bindings import runtime as cuda

    _value(cuda.cudaSetDevice(device))


def _check_driver(cuda: Any) -> None:
    driver = _value(cuda.cudaDriverGetVersion())
    if driver == 0:
        raise MachineError("no NVIDIA driver", fix="install NVIDIA's driver", id="no-device")
    needed = _value(cuda.getLocalRuntimeVersion())
    if driver // 1000 < needed // 1000:  # within a major version old drivers serve new runtimes
        raise MachineError(
            "the NVIDIA driver is too old for the CUDA runtime",
            seen=f"CUDA {driver // 1000}.{driver % 1000 // 10}",
            expected=f"CUDA {needed // 1000}.0 or newer",
            fix="update NVIDIA's driver",
            id="old-driver",
        )


def _compute_capability(cuda: Any, device: int) -> str:
    attribute = cuda.cudaDeviceAttr
    parts = (
        attribute.cudaDevAttrComputeCapabilityMajor,
        attribute.cudaDevAttrComputeCapabilityMinor,
    )
    return ".".join(str(_value(cuda.cudaDeviceGetAttribute(part, device))) for part in parts)


def _value(result: tuple[Any, ...]) -> Any:
    """What a CUDA call returns behind its status.

    Raises:
        MachineError: the status is an error ("cuda", or "out-of-memory").
    """
    status, *values = result
    if status != 0:
        memory = status.name == "cudaErrorMemoryAllocation"
        raise MachineError(
            "CUDA refused a call", seen=status.name, id="out-of-memory" if memory else "cuda"
        )
    return values[0] if values else None


@dataclass(frozen=True)
class _Tensor:
    """An input or output in device memory: `array` is its host side, `address` its device side."""

    array: Array
    address: int


class CudaRunner(Runner):
    """An execution context with one stream. Not for use from several threads at once.

    Args:
        trt: the module, `tensorrt_rtx` or `tensorrt`.
        engine: its deserialised engine, on the current device.
        context: an execution context of that engine.
    """

    def __init__(self, trt: Any, engine: Any, context: Any) -> None:
        from cuda.bindings import runtime as cuda

        self._cuda = cuda
        self._engine = engine
        self._context = context
        self._stream = _value(cuda.cudaStreamCreate())
        self._tensors: dict[str, _Tensor] = {}
        self.signature = _signature(trt, engine)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.bind(feeds)
        self.enqueue()
        return self.results()

    def bind(self, feeds: Mapping[str, Array]) -> None:
        """Copy inputs to the device, and make room for the outputs of that batch.

        Raises:
            DataError: an input is missing, or its shape is outside what the engine was built for.
        """
        for spec in self.signature.inputs:
            if spec.name not in feeds:
                raise DataError("an input is missing", where=spec.name, id="missing-input")
            array = np.ascontiguousarray(feeds[spec.name], dtype=spec.dtype)
            if not self._context.set_input_shape(spec.name, array.shape):
                low, _, high = self._engine.get_tensor_profile_shape(spec.name, 0)
                raise DataError(
                    "the engine was not built for this shape",
                    where=spec.name,
                    seen=str(array.shape),
                    expected=f"{tuple(low)} to {tuple(high)}",
                    id="shape",
                )
            self._copy(self._place(spec.name, array), to_device=True)
        for spec in self.signature.outputs:
            shape = tuple(self._context.get_tensor_shape(spec.name))
            self._place(spec.name, np.empty(shape, spec.dtype))
        _value(self._cuda.cudaStreamSynchronize(self._stream))

    def enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise MachineError("the engine did not start", id="cuda")
        _value(self._cuda.cudaStreamSynchronize(self._stream))

    def results(self) -> dict[str, Array]:
        for spec in self.signature.outputs:
            self._copy(self._tensors[spec.name], to_device=False)
        _value(self._cuda.cudaStreamSynchronize(self._stream))
        return {spec.name: self._tensors[spec.name].array.copy() for spec in self.signature.outputs}

    def close(self) -> None:
        """Free the device's memory and the engine; a second call does nothing."""
        if self._context is None:
            return
        for tensor in self._tensors.values():
            _value(self._cuda.cudaFree(tensor.address))
        self._tensors.clear()
        _value(self._cuda.cudaStreamDestroy(self._stream))
        self._context = self._engine = None

    def _place(self, name: str, array: Array) -> _Tensor:
        """Device memory for an array, kept from the last call where it has the same size."""
        old = self._tensors.get(name)
        if old is not None and old.array.nbytes == array.nbytes:
            address = old.address
        else:
            if old is not None:
                _value(self._cuda.cudaFree(old.address))
                del self._tensors[name]
            address = int(_value(self._cuda.cudaMalloc(array.nbytes)))
        self._tensors[name] = _Tensor(array, address)
        self._context.set_tensor_address(name, address)
        return self._tensors[name]

    def _copy(self, tensor: _Tensor, *, to_device: bool) -> None:
        host, size = tensor.array.ctypes.data, tensor.array.nbytes
        kinds = self._cuda.cudaMemcpyKind
        if to_device:
            ends = (tensor.address, host, size, kinds.cudaMemcpyHostToDevice)
        else:
            ends = (host, tensor.address, size, kinds.cudaMemcpyDeviceToHost)
        _value(self._cuda.cudaMemcpyAsync(*ends, self._stream))


def _signature(trt: Any, engine: Any) -> Signature:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]

    def side(mode: Any) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name,
                str(np.dtype(trt.nptype(engine.get_tensor_dtype(name)))),
                tuple("batch" if dim == -1 else dim for dim in engine.get_tensor_shape(name)),
            )
            for name in names
            if engine.get_tensor_mode(name) == mode
        )

    return Signature(side(trt.TensorIOMode.INPUT), side(trt.TensorIOMode.OUTPUT))
