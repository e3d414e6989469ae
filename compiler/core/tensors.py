"""The type and shape of every tensor of a model, found anew: what a file states may be stale.

Types come from ONNX's shape inference, with the values of shape arithmetic followed. Where it knows
no operator (com.microsoft's, say), ONNX Runtime's own inference answers, which knows all that it
can run. What neither tells stays unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.protos import nested
from rtc.compiler.core.running import unoptimised

if TYPE_CHECKING:
    import onnx

Dim = int | str
"""A size, or the name of one that is free; names that inference made up begin with `MADE_UP`."""

MADE_UP = "unk__"

Shape = tuple[int, ...]

BATCH = 999_983
"""A free batch, in shapes: a prime of which no real size is a multiple, so an axis holds the batch
exactly where it divides it."""

_MOST_DATA = 1024  # elements of a constant whose values may decide a shape


@dataclass(frozen=True)
class TensorType:
    """A tensor's element type (of `onnx.TensorProto`) and shape; None where the rank is unknown."""

    kind: int
    shape: tuple[Dim, ...] | None


def typed(model: onnx.ModelProto, *, trusting: bool = False) -> None:
    """Write the type of every tensor that can be told into a model, in place of what it states.

    Args:
        model: changed in place.
        trusting: whether to believe what it states where ONNX cannot tell; not of a model from
            outside.

    Raises:
        ModelError: a node that breaks its operator's rules.
    """
    light = _told(model, trusting=trusting)
    for into, found in (
        (model.graph.value_info, light.graph.value_info),
        (model.graph.output, light.graph.output),
    ):
        del into[:]
        into.extend(found)


def types_of(model: onnx.ModelProto, *, trusting: bool = False) -> dict[str, TensorType]:
    """What `typed` would write of every tensor, and of those of inner graphs; constants included.

    Args:
        model: is left as it is.
        trusting: as there.

    Raises:
        ModelError: as there.
    """
    stated = [model] if trusting else []
    types: dict[str, TensorType] = {}
    for typed_model in (*stated, _told(model, trusting=trusting)):
        for graph in nested(typed_model.graph):
            types |= tensor_types(graph)
    return types


def types_at(model: onnx.ModelProto, batch: int) -> dict[str, TensorType]:
    """`types_of` a model whose batch, where it is free, is this one.

    Free is the first axis of an input, and of an output where it has the same name.

    Raises:
        ModelError: as `typed`.
    """
    light = without_weights(model)
    del light.graph.output[:]
    light.graph.output.extend(model.graph.output)
    names = set[str]()
    for value in model.graph.input:
        names.update(dim.dim_param for dim in _dims(value)[:1] if not dim.HasField("dim_value"))
    for value in (*light.graph.input, *light.graph.output):
        for dim in _dims(value)[:1]:
            if not dim.HasField("dim_value") and dim.dim_param in names:
                dim.dim_value = batch
    return types_of(light)


def _told(model: onnx.ModelProto, *, trusting: bool) -> onnx.ModelProto:
    """The model without its weights, and with the type of every tensor that can be told."""
    light = _inferred(without_weights(model))
    if trusting and (unknown := _unknown(light, shapes=True)):
        light = _inferred(_with(light, unknown, {e.name: e for e in model.graph.value_info}))
    if unknown := _unknown(light):
        with suppress(ModelError):  # an operator that nobody here knows
            light = _inferred(_with(light, unknown, _asked_of_runtime(light, unknown)))
    _restore_outputs(light, model.graph.output)
    return light


def tensor_types(graph: onnx.GraphProto) -> dict[str, TensorType]:
    """Types by tensor name, of what a typed model states; constants included."""
    types = {t.name: TensorType(t.data_type, tuple(t.dims)) for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type:
            types.setdefault(value.name, _type_of(value))
    return types


def known_shapes(types: Mapping[str, TensorType]) -> dict[str, Shape]:
    """The shapes of which every size is known."""
    return {
        name: tuple(size for size in kind.shape if isinstance(size, int))
        for name, kind in types.items()
        if kind.shape is not None and all(isinstance(size, int) for size in kind.shape)
    }


def _type_of(value: onnx.ValueInfoProto) -> TensorType:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    dims = (d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim)
    return TensorType(tensor.elem_type, tuple(dims))


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with inputs for its large constants, and without what it states of its tensors."""
    import onnx

    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    for inner in nested(graph):
        del inner.value_info[:]
    graph.input.extend(model.graph.input)
    graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    given = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _MOST_DATA:
            graph.initializer.append(tensor)
        elif tensor.name not in given:  # as it is before IR version 4
            make = onnx.helper.make_tensor_value_info
            graph.input.append(make(tensor.name, tensor.data_type, tensor.dims))
    return light


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as cause:
        raise ModelError(f"shapes cannot be inferred: {cause}", id="bad-shapes") from cause
    outputs = {value.name for value in inferred.graph.output}  # it lists some of them twice
    inner = [value for value in inferred.graph.value_info if value.name not in outputs]
    del inferred.graph.value_info[:]
    inferred.graph.value_info.extend(inner)
    return inferred


def _unknown(model: onnx.ModelProto, *, shapes: bool = False) -> set[str]:
    """Tensors whose type is not known; with `shapes`, also those whose rank is not."""
    graph = model.graph
    known = {
        value.name
        for value in (*graph.value_info, *graph.output)
        if _has_type(value) and (value.type.tensor_type.HasField("shape") or not shapes)
    }
    return {n for node in graph.node for n in node.output if n} - known


def _with(
    model: onnx.ModelProto, unknown: AbstractSet[str], types: Mapping[str, onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """The model, with what others say of its unknown tensors."""
    graph = model.graph
    known = [value for value in graph.value_info if value.name not in unknown & types.keys()]
    del graph.value_info[:]
    graph.value_info.extend(known)
    outputs = {value.name: value for value in graph.output}
    for name in sorted(unknown & types.keys()):
        if name in outputs:
            outputs[name].type.CopyFrom(types[name].type)
        else:
            graph.value_info.append(types[name])
    return model


def _asked_of_runtime(
    model: onnx.ModelProto, unknown: AbstractSet[str]
) -> dict[str, onnx.ValueInfoProto]:
    """What ONNX Runtime makes of the unknown tensors.

    Raises:
        ModelError: it does not take the model.
    """
    import onnx

    asking = onnx.ModelProto()
    asking.CopyFrom(model)
    del asking.graph.output[:]
    asking.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(unknown))
    kinds = dict(_runtime_kinds())
    return {
        # An unknown rank is told as that of a scalar: neither says anything.
        output.name: onnx.helper.make_tensor_value_info(
            output.name, kinds[output.type], output.shape or None
        )
        for output in unoptimised(asking.SerializeToString()).get_outputs()
        if output.type in kinds
    }


def _runtime_kinds() -> Iterator[tuple[str, int]]:
    """ONNX Runtime's names of element types: "tensor(float)" is 1."""
    from onnx import TensorProto

    for name, number in TensorProto.DataType.items():
        yield f"tensor({name.lower()})", number


def _restore_outputs(model: onnx.ModelProto, outputs: Sequence[onnx.ValueInfoProto]) -> None:
    """What the outputs' types were stated as, wherever nothing found contradicts it.

    A first axis of a fixed size, where the model's own first axis is free, is what the model was
    exported with before its batch was freed.
    """
    batch = next((d for value in model.graph.input[:1] for d in _dims(value)), None)
    for output, stated in zip(model.graph.output, outputs, strict=True):
        if not _has_type(output):
            output.type.CopyFrom(stated.type)
        tensor = output.type.tensor_type
        if not tensor.HasField("shape"):
            for _ in _dims(stated):
                tensor.shape.dim.add()
        if len(tensor.shape.dim) != len(_dims(stated)):
            continue
        for axis, (dim, other) in enumerate(zip(tensor.shape.dim, _dims(stated), strict=True)):
            if dim.HasField("dim_value") or (dim.dim_param and MADE_UP not in dim.dim_param):
                continue
            fixed = axis == 0 and other.HasField("dim_value")
            stale = fixed and batch is not None and batch.dim_param
            dim.CopyFrom(batch if stale else other)


def _has_type(value: onnx.ValueInfoProto) -> bool:
    """Whether it has one; inference may leave an empty message."""
    return value.type.WhichOneof("value") is not None


def _dims(value: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    dims: Sequence[onnx.TensorShapeProto.Dimension] = value.type.tensor_type.shape.dim
    return dims
