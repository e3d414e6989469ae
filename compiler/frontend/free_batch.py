"""Models of a fixed batch with any batch in its place, as far as the graph can say that.

Exporters write the batch into the constants of Reshapes. At the fixed batch these equations hold
whatever they mean; whether they hold at others is found out by running the model:

    Reshape(x, [n, …])      → Reshape(x, [0, …])         where x has n rows
    Reshape(x, [n, …])      → Reshape(x, [-1, …])        where it has not
    Reshape(x, [n, …, -1])  → Reshape(x, [-1, …, size])  in the second case
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rtc.compiler.core.operators import op_of
from rtc.compiler.core.tensors import typed
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.compiler.frontend.source import signature_of, to_bytes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def freed(unit: Unit) -> Iterator[Unit]:
    """The model with a free batch: as it is beside that, then with its Reshapes freed as well."""
    yield with_batch(unit, None)
    changed = _with_free_reshapes(unit)
    if changed is not None:
        yield with_batch(changed, None)


def with_batch(unit: Unit, batch: int | None) -> Unit:
    """The unit with a fixed batch, or (None) a free one."""
    import onnx

    model = onnx.load_model_from_string(unit.onnx.proto)
    for value in (input_of(model, unit), model.graph.output[0]):
        first = value.type.tensor_type.shape.dim[0]
        if batch is None:
            first.dim_param = "batch"
        else:
            first.dim_value = batch
    return inferred(model)


def inferred(model: ModelProto) -> Unit:
    """The unit of a model whose inputs changed; what it stated of others is inferred again."""
    typed(model)
    return Unit(OnnxModel(to_bytes(model)), signature_of(model))


def input_of(model: ModelProto, unit: Unit) -> Any:
    """What a model says of the unit's input."""
    name = unit.signature.inputs[0].name
    return next(value for value in model.graph.input if value.name == name)


def _with_free_reshapes(unit: Unit) -> Unit | None:
    import numpy as np
    import onnx

    model = onnx.load_model_from_string(unit.onnx.proto)
    graph = onnx.load_model_from_string(inferred(model).onnx.proto).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    constants, changed = _constants(model), False
    for node in model.graph.node:
        if op_of(node) != "Reshape" or node.input[1] not in constants:
            continue
        asked = _free(node, constants[node.input[1]], sizes)
        if asked is not None:
            name = f"{node.output[0]}_free"
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(asked), name))
            node.input[1], changed = name, True
            del node.attribute[:]  # allowzero: what zeros mean, and there were none
    return Unit(OnnxModel(to_bytes(model)), unit.signature) if changed else None


def _constants(model: ModelProto) -> dict[str, list[int]]:
    """Shapes that a graph holds: initialisers, and what Constant nodes give."""
    import onnx

    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if op_of(node) == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    whole = {name: t for name, t in tensors.items() if t.data_type == onnx.TensorProto.INT64}
    return {
        name: onnx.numpy_helper.to_array(t).tolist()
        for name, t in whole.items()
        if len(t.dims) == 1
    }


def _free(node: NodeProto, asked: list[int], sizes: dict[str, list[int]]) -> list[int] | None:
    """The shape that a Reshape asks for, with its first size left open; None to leave it alone."""
    before, after = sizes.get(node.input[0], []), sizes.get(node.output[0], [])
    if not asked or asked[0] < 1 or 0 in asked:
        return None
    if before[:1] == asked[:1]:
        return [0, *asked[1:]]
    if len(after) != len(asked) or not all(after):
        return None
    return [-1, *after[1:]]
