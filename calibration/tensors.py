"""The type and shape of every tensor of a model, found anew: what a file states may be stale.

Types come from ONNX's shape inference, with the values of shape arithmetic followed. Where it knows
no operator (com.microsoft's, say), ONNX Runtime's own inference answers, which knows all that it
can run. What neither tells stays unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtc.compiler.core.errors import ModelError

if TYPE_CHECKING:
    import onnx

Dim = int | str
"""A size, or the name of one that is free; names that inference made up begin with `MADE_UP`."""

MADE_UP = "unk__"


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
        onnx.shape_inference.InferenceError: a node that breaks its operator's rules.
    """
    stated, outputs = _cleared(model)
    _infer(model)
    if trusting and _unknown(model):
        _add(model, stated)
        _infer(model)
    if _unknown(model):
        with suppress(ModelError):  # an operator that nobody here knows
            _add(model, _asked_of_runtime(model))
            _infer(model)
    _restore_outputs(model, outputs)


def tensor_types(graph: onnx.GraphProto) -> dict[str, TensorType]:
    """Types by tensor name, of what a typed model states; constants included."""
    found = {t.name: TensorType(t.data_type, tuple(t.dims)) for t in graph.initializer}
    for each in (*graph.input, *graph.output, *graph.value_info):
        if each.type.tensor_type.elem_type:
            found.setdefault(each.name, _type_of(each))
    return found


def _type_of(value: onnx.ValueInfoProto) -> TensorType:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    dims = (d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim)
    return TensorType(tensor.elem_type, tuple(dims))


def _cleared(
    model: onnx.ModelProto,
) -> tuple[dict[str, onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    """Forget what the model states of its tensors: copies of that, by name, and of its outputs."""
    import onnx

    graph, copy = model.graph, onnx.ValueInfoProto.FromString
    stated = {each.name: copy(each.SerializeToString()) for each in graph.value_info}
    outputs = [copy(each.SerializeToString()) for each in graph.output]
    del graph.value_info[:]
    for each in graph.output:
        each.ClearField("type")
    return stated, outputs


def _infer(model: onnx.ModelProto) -> None:
    import onnx

    model.CopyFrom(onnx.shape_inference.infer_shapes(model, data_prop=True))
    outputs = {each.name for each in model.graph.output}  # it lists some of them twice
    inner = [each for each in model.graph.value_info if each.name not in outputs]
    del model.graph.value_info[:]
    model.graph.value_info.extend(inner)


def _unknown(model: onnx.ModelProto) -> list[str]:
    """Tensors, in graph order, whose type is not known."""
    graph = model.graph
    known = {each.name for each in (*graph.value_info, *graph.output) if _has_type(each)}
    return [n for node in graph.node for n in node.output if n and n not in known]


def _add(model: onnx.ModelProto, types: Mapping[str, onnx.ValueInfoProto]) -> None:
    outputs = {each.name: each for each in model.graph.output}
    for name in _unknown(model):
        if name not in types:
            continue
        if name in outputs:
            outputs[name].type.CopyFrom(types[name].type)
        else:
            model.graph.value_info.append(types[name])


def _asked_of_runtime(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """What ONNX Runtime makes of the unknown tensors.

    Raises:
        ModelError: it does not take the model.
    """
    import onnx

    from rtc.calibration.oracle import session

    asking, names = onnx.ModelProto(), _unknown(model)
    asking.CopyFrom(model)
    del asking.graph.output[:]
    asking.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    kinds = dict(_runtime_kinds())
    return {
        # An unknown rank is told as that of a scalar: neither says anything.
        each.name: onnx.helper.make_tensor_value_info(
            each.name, kinds[each.type], each.shape or None
        )
        for each in session(asking.SerializeToString(), threads=1).get_outputs()
        if each.type in kinds
    }


def _runtime_kinds() -> Iterator[tuple[str, int]]:
    """ONNX Runtime's names of element types: "tensor(float)" is 1."""
    from onnx import TensorProto

    for name, number in TensorProto.DataType.items():
        yield f"tensor({name.lower()})", number


def _restore_outputs(model: onnx.ModelProto, outputs: list[onnx.ValueInfoProto]) -> None:
    """What the outputs' types were stated as, wherever nothing found contradicts it.

    A first axis of a fixed size, where the model's own first axis is free, is what the model was
    exported with before its batch was freed.
    """
    batch = next((d for each in model.graph.input[:1] for d in _dims(each)), None)
    for found, stated in zip(model.graph.output, outputs, strict=True):
        if not _has_type(found):
            found.type.CopyFrom(stated.type)
        tensor = found.type.tensor_type
        if not tensor.HasField("shape"):
            for _ in _dims(stated):
                tensor.shape.dim.add()
        if len(tensor.shape.dim) != len(_dims(stated)):
            continue
        for axis, (dim, other) in enumerate(zip(tensor.shape.dim, _dims(stated), strict=True)):
            if dim.HasField("dim_value") or (dim.dim_param and MADE_UP not in dim.dim_param):
                continue
            stale = axis == 0 and batch is not None and batch.dim_param and not other.dim_param
            dim.CopyFrom(batch if stale else other)


def _has_type(value: onnx.ValueInfoProto) -> bool:
    """Whether it has one; inference may leave an empty message."""
    return value.type.WhichOneof("value") is not None


def _dims(value: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    dims: Sequence[onnx.TensorShapeProto.Dimension] = value.type.tensor_type.shape.dim
    return dims
