"""The first unit: an ONNX file that was checked in a child process, or a PyTorch factory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtc.calibration.oracle import Oracle
from rtc.compiler import sandbox
from rtc.compiler.core.data import Splits
from rtc.compiler.core.errors import ModelError, first_line
from rtc.compiler.core.unit import OnnxModel, Signature, Unit
from rtc.compiler.recipe import Source
from rtc.passes.graph import named

_PARSE_SECONDS = 120.0
_PARSE_GB = 8.0
_LARGEST = (1 << 31) - 1  # protobuf's own limit
_OPSET, _OPSET_IR = 17, 8  # what older models are lifted to


def source_unit(source: Source, data: Splits, seed: int, folder: Path) -> Unit:
    """The model that a recipe names.

    Raises:
        ModelError: the file cannot be read as what it says it is.
    """
    if source.onnx is not None:
        return onnx_unit(folder / source.onnx)
    from rtc.passes import torch_module

    weights = torch_module.load_weights_file(folder / source.weights) if source.weights else b""
    assert source.factory is not None, "a recipe's source has a factory or an ONNX file"
    return torch_module.source_unit(source.factory, source.options, weights, data.calibration, seed)


def onnx_unit(path: Path) -> Unit:
    """Read an ONNX file to compile: its nodes get names of their own, its batch becomes free.

    It is parsed and checked in a child process with a memory limit.

    Raises:
        ModelError: it is not readable as ONNX, or not a model that rtc compiles.
    """
    return _read(path, "rtc.compiler.source:read_model")


def onnx_as_it_is(path: Path) -> Unit:
    """Read any ONNX file to look at: it is parsed and checked, and not changed.

    Raises:
        ModelError: it is not readable as ONNX.
    """
    return _read(path, "rtc.compiler.source:read_as_it_is")


def _read(path: Path, entry: str) -> Unit:
    proto = path.read_bytes()
    if not proto:
        raise ModelError("the ONNX file is empty", where=str(path), id="empty-model")
    if len(proto) > _LARGEST:
        raise ModelError(
            "the ONNX file is larger than a protobuf can be",
            where=str(path),
            seen=f"{len(proto)} bytes",
            expected="under 2 GB",
        )
    try:
        files = sandbox.run(
            entry,
            files={"model.onnx": proto},
            args={},
            deadline_s=_PARSE_SECONDS,
            memory_gb=_PARSE_GB,
            what=f"reading {path.name}",
        )
    except ModelError as error:
        error.where = f"{path}: {error.where}" if error.where else str(path)
        raise
    return Unit.from_files(files)


def read_model(files: Mapping[str, bytes], _: Mapping[str, Any]) -> dict[str, bytes]:
    """Parse and check a model, lift its opset, name its nodes, free its batch; for a child."""
    model = _checked(files["model.onnx"])
    signature = _signature(model)
    _refuse_other_signatures(signature)
    unit = named(_with_newer_opset(Unit(OnnxModel(_bytes(model)), signature)))
    if isinstance(signature.inputs[0].shape[0], int):
        unit = _with_free_batch(unit)
    return unit.to_files()


def read_as_it_is(files: Mapping[str, bytes], _: Mapping[str, Any]) -> dict[str, bytes]:
    """Parse and check a model; runs in a child process."""
    model = _checked(files["model.onnx"])
    return Unit(OnnxModel(files["model.onnx"]), _signature(model)).to_files()


def _checked(proto: bytes) -> Any:
    import onnx

    try:
        model = onnx.load_from_string(proto)
    except Exception as cause:
        raise ModelError(
            "not an ONNX model, or a truncated one", seen=first_line(cause), id="unreadable-model"
        ) from cause
    if not model.graph.node:
        raise ModelError("the ONNX model has no nodes", id="empty-model")
    _refuse_external_data(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as cause:
        raise ModelError(
            "the ONNX checker refuses the model", seen=first_line(cause), id="invalid-model"
        ) from cause
    _refuse_bad_weights(model)
    return model


def _refuse_external_data(model: Any) -> None:
    outside = [t.name for t in model.graph.initializer if t.external_data]
    if outside:
        raise ModelError(
            "weights outside the ONNX file are not read",
            seen=f"{len(outside)} tensors, first {outside[0]!r}",
            fix="save the model with its weights inside (onnx.save, save_as_external_data=False)",
            id="external-data",
        )


def _refuse_bad_weights(model: Any) -> None:
    import numpy as np
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ModelError(
                "a weight is NaN or infinite", where=tensor.name, id="not-finite-weights"
            )


def _signature(model: Any) -> Signature:
    import onnx

    initialisers = {tensor.name for tensor in model.graph.initializer}

    def spec(value: Any) -> dict[str, Any]:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") or not tensor.shape.dim:
            raise ModelError("a tensor without a shape", where=value.name, id="no-shape")
        shape: list[int | str] = [
            dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else f"dim{axis}")
            for axis, dim in enumerate(tensor.shape.dim)
        ]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        return {"name": value.name, "dtype": str(dtype), "shape": shape}

    inputs = [spec(value) for value in model.graph.input if value.name not in initialisers]
    outputs = [spec(value) for value in model.graph.output]
    return Signature.from_dict({"inputs": inputs, "outputs": outputs})


def _refuse_other_signatures(signature: Signature) -> None:
    """What rtc compiles are classifiers: one float32 input, and logits (N, classes)."""
    if len(signature.inputs) != 1 or len(signature.outputs) != 1:
        raise ModelError(
            "rtc compiles models with one input and one output",
            seen=f"{len(signature.inputs)} inputs, {len(signature.outputs)} outputs",
            id="signature",
        )
    given, gives = signature.inputs[0], signature.outputs[0]
    if given.dtype != "float32":
        raise ModelError(
            "the model's input is not float32", where=given.name, seen=given.dtype, id="signature"
        )
    if gives.dtype != "float32" or len(gives.shape) != 2:
        raise ModelError(
            "the model's output is not a classifier's",
            where=gives.name,
            seen=f"{gives.dtype} ({', '.join(map(str, gives.shape))})",
            expected="float32 (batch, classes)",
            id="signature",
        )


def _with_newer_opset(unit: Unit) -> Unit:
    """The model in opset 17, if it is older, ONNX's converter can, and it then gives the same.

    Q/DQ per channel needs 13, the gradients of the fast sensitivity analysis 16. Nodes that have
    names keep them.
    """
    import onnx

    model = onnx.load_from_string(unit.onnx.proto)
    own = next((each.version for each in model.opset_import if not each.domain), _OPSET)
    if own >= _OPSET:
        return unit
    try:
        lifted = onnx.version_converter.convert_version(model, _OPSET)
        lifted.ir_version = max(lifted.ir_version, _OPSET_IR)
        onnx.checker.check_model(lifted, full_check=True)
    except Exception:  # noqa: BLE001 - the converter's errors have no common public class
        return unit
    changed = Unit(OnnxModel(_bytes(lifted)), unit.signature)
    if _signature(lifted) != unit.signature or not _give_the_same(unit, changed):
        return unit
    return changed


def _give_the_same(one: Unit, other: Unit) -> bool:
    import numpy as np

    spec = one.signature.inputs[0]
    shape = [n if isinstance(n, int) else (32 if axis else 2) for axis, n in enumerate(spec.shape)]
    sample = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    try:
        with Oracle(one.onnx.proto) as first, Oracle(other.onnx.proto) as second:
            pairs = zip(first.run(sample).values(), second.run(sample).values(), strict=True)
            return all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)
    except Exception:  # noqa: BLE001 - the runtime's errors have no common public class
        return False


def _with_free_batch(unit: Unit) -> Unit:
    """The model with any batch in place of a fixed one, if it then gives the same.

    Some graphs hold the batch in the constants of a Reshape. So twice the batch at once is compared
    with two runs of the original.
    """
    import onnx

    free = onnx.load_from_string(unit.onnx.proto)
    spec, gives = unit.signature.inputs[0], unit.signature.outputs[0]
    del free.graph.value_info[:]
    for tensor in (*free.graph.input, *free.graph.output):
        if tensor.name in {spec.name, gives.name}:
            tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    content = _bytes(free)
    if not _same_for_twice_the_batch(unit, content):
        raise ModelError(
            "the batch is fixed, and the graph computes something else with another",
            where=spec.name,
            seen=f"batch {spec.shape[0]}",
            fix="export it with a dynamic batch axis",
            id="fixed-batch",
        )
    return Unit(OnnxModel(content), _signature(free))


def _same_for_twice_the_batch(unit: Unit, free: bytes) -> bool:
    import numpy as np

    spec, gives = unit.signature.inputs[0], unit.signature.outputs[0]
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    samples = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    try:
        with Oracle(unit.onnx.proto) as one, Oracle(free) as any_size:
            apart = np.concatenate([one.run(each)[gives.name] for each in samples])
            together = any_size.run(samples.reshape(-1, *shape[1:]))[gives.name]
    except Exception:  # noqa: BLE001 - the runtime's errors have no common public class
        return False
    return apart.shape == together.shape and bool(
        np.allclose(apart, together, rtol=1e-3, atol=1e-4)
    )


def _bytes(model: Any) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content
