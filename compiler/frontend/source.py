"""The first unit: an ONNX file that was checked in a child process, or a PyTorch factory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtc.compiler.core.data import Splits
from rtc.compiler.core.errors import ModelError, first_line
from rtc.compiler.core.operators import ONNX, WEIGHTED, op_of
from rtc.compiler.core.protos import named_tensors, nested, nodes
from rtc.compiler.core.tensors import typed
from rtc.compiler.core.unit import OnnxModel, Signature, TensorSpec, Unit
from rtc.compiler.frontend.model_files import (
    PARSE_GB,
    PARSE_SECONDS,
    ModelFiles,
    parsed,
    read_model_files,
    reading,
    refusing_nonsense,
)
from rtc.compiler.frontend.plain_form import make_plain
from rtc.compiler.process import sandbox
from rtc.compiler.recipe.sections import Source
from rtc.passes.support.onnx_graph import named

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_LISTED = 4  # names that an error gives


def source_unit(source: Source, data: Splits, seed: int, folder: Path) -> Unit:
    """The model that a recipe names.

    Raises:
        ModelError: the file cannot be read as what it says it is.
    """
    if source.onnx is not None:
        return onnx_unit(folder / source.onnx)
    from rtc.passes.torch import torch_module

    weights = torch_module.load_weights_file(folder / source.weights) if source.weights else b""
    assert source.factory is not None, "a recipe's source has a factory or an ONNX file"
    return torch_module.source_unit(source.factory, source.options, weights, data.calibration, seed)


def onnx_unit(path: Path, files: ModelFiles | None = None) -> Unit:
    """Read an ONNX file to compile: weights inside, no local functions, every node with a name.

    It is parsed and checked in a child process with a memory limit. `files`: what was read of it
    already.

    Raises:
        ModelError: it is not readable as ONNX, or not a model that rtc compiles.
    """
    read_files = files or read_model_files(path)
    with reading(path):
        made = sandbox.run(
            "rtc.compiler.frontend.source:read_model",
            files=read_files.for_child(),
            args={},
            deadline_s=PARSE_SECONDS,
            memory_gb=PARSE_GB,
            what=f"reading {path.name}",
        )
    return Unit.from_files(made)


@refusing_nonsense()
def read_model(files: Mapping[str, bytes], _: Mapping[str, Any]) -> dict[str, bytes]:
    """Parse and check a model, inline its functions, name its nodes; for a child."""
    model = parsed(files)
    if not model.graph.node:
        raise ModelError("the ONNX model has no nodes", id="empty-model")
    model.ClearField("training_info")
    _refuse_newer_opset(model)
    make_plain(model)
    model = _without_functions(model)
    _shape_outputs(model)
    _check(model)
    _refuse_bad_weights(model)
    signature = signature_of(model)
    _refuse_other_signatures(signature)
    return named(Unit(OnnxModel(to_bytes(model)), signature)).to_files()


def _check(model: ModelProto) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as cause:
        raise ModelError(
            "the ONNX checker refuses the model", seen=first_line(cause), id="invalid-model"
        ) from cause


def _refuse_newer_opset(model: ModelProto) -> None:
    import onnx

    known = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ONNX and opset.version > known:
            raise ModelError(
                "the model's opset is newer than the ONNX library here",
                seen=f"opset {opset.version}",
                expected=f"at most {known}",
                fix="export it with an older opset_version, or upgrade onnx and onnxruntime",
                id="newer-opset",
            )


def _without_functions(model: ModelProto) -> ModelProto:
    """The model with the bodies of its local functions in place of the calls.

    Raises:
        ModelError: a function that calls itself, or one that ONNX cannot inline.
    """
    if not model.functions:
        return model
    from onnx import inliner

    _refuse_recursion(model)
    try:
        inlined: ModelProto = inliner.inline_local_functions(model, convert_version=True)
    except Exception as cause:
        raise ModelError(
            "the model's local functions cannot be inlined",
            where=", ".join(f.name for f in model.functions[:_LISTED]),
            seen=first_line(cause),
            id="local-functions",
        ) from cause
    used = {node.domain for node in nodes(inlined)} | {""}
    kept = [opset for opset in inlined.opset_import if opset.domain in used]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return inlined


def _refuse_recursion(model: ModelProto) -> None:
    calls = {
        (f.domain, f.name, f.overload): {
            (n.domain, n.op_type, n.overload) for body in nested(f) for n in body.node
        }
        for f in model.functions
    }
    while calls:
        ends = {name for name, called in calls.items() if not called & calls.keys()}
        if not ends:
            raise ModelError(
                "the model's local functions call themselves",
                where=", ".join(sorted(name for _, name, _ in calls)[:_LISTED]),
                id="recursive-functions",
            )
        calls = {name: called for name, called in calls.items() if name not in ends}


def _refuse_bad_weights(model: ModelProto) -> None:
    """NaN is no value anywhere. Infinity is one in a mask, and none among weights.

    Raises:
        ModelError: the tensor is named.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    weights = {name for node in nodes(model) if op_of(node) in WEIGHTED for name in node.input}
    for name, tensor in named_tensors(model):
        if tensor.data_type == onnx.TensorProto.STRING:
            continue
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind != "f" or np.isfinite(values).all():
            continue
        if name in weights or np.isnan(values).any():
            raise ModelError("a weight is NaN or infinite", where=name, id="not-finite-weights")


def _shape_outputs(model: ModelProto) -> None:
    """Outputs state what can be told of their shapes, and not what the file does against that.

    Where nothing can, an output is taken for a classifier's; `frontend.axes` finds out.
    """
    typed(model)
    for value in model.graph.output:
        if not value.type.tensor_type.HasField("shape"):
            for name in ("batch", "classes"):
                value.type.tensor_type.shape.dim.add().dim_param = name


def signature_of(model: ModelProto) -> Signature:
    """Inputs (weights are none) and outputs of a model that says the shapes of all of them."""
    import onnx

    initialisers = {tensor.name for tensor in model.graph.initializer}

    def spec(value: ValueInfoProto) -> dict[str, Any]:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise ModelError("no tensor of a known shape", where=value.name, id="no-shape")
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
    """What rtc compiles are classifiers: one float32 input, and logits (N, classes).

    Of axes besides, real samples show whether they are 1 (`rtc.compiler.axes`).
    """
    if len(signature.inputs) != 1 or len(signature.outputs) != 1:
        raise ModelError(
            "rtc compiles models with one input and one output",
            seen=f"{len(signature.inputs)} inputs, {len(signature.outputs)} outputs",
            id="signature",
        )
    given, gives = signature.inputs[0], signature.outputs[0]
    if given.dtype != "float32" or not given.shape:
        raise ModelError(
            "the model's input is not float32 samples",
            where=given.name,
            seen=f"{given.dtype} ({', '.join(map(str, given.shape))})",
            expected="float32 (batch, …)",
            id="signature",
        )
    sizes = [size for size in gives.shape[1:] if isinstance(size, int) and size != 1]
    if gives.dtype != "float32" or len(gives.shape) < 2 or len(sizes) > 1:
        raise no_classifier(gives.name, f"{gives.dtype} ({', '.join(map(str, gives.shape))})")


def classes_of(output: TensorSpec) -> int | str:
    """How many classes an output (N, classes) has; axes of 1 besides do not count."""
    return next((size for size in output.shape[1:] if size != 1), 1)


def no_classifier(output: str, seen: str) -> ModelError:
    """That an output is not one number for each class."""
    return ModelError(
        "the model's output is not a classifier's",
        where=output,
        seen=seen,
        expected="float32 (batch, classes), or that with axes of 1 besides",
        id="signature",
    )


def to_bytes(model: ModelProto) -> bytes:
    """A model serialised, the same bytes for the same content."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content
