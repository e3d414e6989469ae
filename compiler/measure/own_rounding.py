"""A graph without its rounding, and with that of a GPU: what rounding does is the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from rtc.calibration.rounding import emulate_half
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.operators import op_of

if TYPE_CHECKING:
    import onnx

_INTEGERS = ("QuantizeLinear", "DequantizeLinear", "QLinear", "Integer")  # in operators' names
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_TO_ELEVEN_BITS = np.array(2**13 + 1, np.float32)


def rounds(proto: bytes) -> bool:
    """Whether a model rounds, to integers or to a half type."""
    import onnx

    model = onnx.load_model_from_string(proto)
    return any(map(_of_integers, _nodes(model))) or emulate_half(proto) != proto


def unrounded(proto: bytes) -> bytes | None:
    """A model whose values go through Q/DQ pairs without being rounded; None where that fails.

    They are clipped as a Q clips them, because that may stand for a Relu. Weights that are stored
    as integers stay what they stand for. Products of integers cannot be taken apart here.
    """
    import onnx

    model = onnx.load_model_from_string(proto)
    graph = model.graph
    everywhere = sum(map(_of_integers, _nodes(model)))
    if not everywhere:
        return proto
    if everywhere > sum(map(_of_integers, graph.node)):
        return None
    constants = _constants(graph)
    made = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        parts = _without_rounding(node, made, constants)
        if parts is None:
            return None
        nodes += parts
    _replace(graph, nodes)
    return bytes(model.SerializeToString())


def with_tf32(proto: bytes) -> bytes:
    """A model whose products take float32 rounded to 11 significant bits, as tensor cores do.

    The high part of a number is split off with a product and two differences (Veltkamp, in
    Dekker, "A floating-point technique for extending the available precision", 1971).
    """
    import onnx

    model = onnx.load_model_from_string(proto)
    factor = "tf32/factor"
    model.graph.initializer.append(onnx.numpy_helper.from_array(_TO_ELEVEN_BITS, factor))
    rounded: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    make = onnx.helper.make_node
    for node in model.graph.node:
        for index, name in enumerate(node.input[:2] if op_of(node) in _PRODUCTS else ()):
            if name not in rounded:
                rounded.add(name)
                large, low = f"{name}/tf32/large", f"{name}/tf32/low"
                nodes.append(make("Mul", [name, factor], [large]))
                nodes.append(make("Sub", [large, name], [low]))
                nodes.append(make("Sub", [large, low], [f"{name}/tf32"]))
            node.input[index] = f"{name}/tf32"
        nodes.append(node)
    _replace(model.graph, nodes)
    return bytes(model.SerializeToString())


def _of_integers(node: onnx.NodeProto) -> bool:
    return any(word in op_of(node) for word in _INTEGERS) or op_of(node) == "com.microsoft.QGemm"


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of branches and functions too."""
    left = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while left:
        node = left.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                left.extend(graph.node)


def _constants(graph: onnx.GraphProto) -> dict[str, Array]:
    import onnx

    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if op_of(node) == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return constants


def _without_rounding(
    node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], constants: Mapping[str, Array]
) -> list[onnx.NodeProto] | None:
    import onnx

    if op_of(node) == "QuantizeLinear":
        return _clipped(node, constants)
    if op_of(node) != "DequantizeLinear":
        return None if _of_integers(node) else [node]
    source = node.input[0]
    if source in constants:
        return [node]
    before = made.get(source)
    if before is not None and op_of(before) == "QuantizeLinear":
        own_scale, before_scale = constants.get(node.input[1]), constants.get(before.input[1])
        if own_scale is None or before_scale is None or not np.array_equal(own_scale, before_scale):
            return None
    return [onnx.helper.make_node("Identity", [source], [node.output[0]])]


def _clipped(node: onnx.NodeProto, constants: Mapping[str, Array]) -> list[onnx.NodeProto] | None:
    """What a QuantizeLinear does to real values but for the rounding."""
    import onnx

    scale = constants.get(node.input[1])
    given = node.input[2] if len(node.input) > 2 else ""
    zero = constants.get(given) if given else np.uint8(0)
    if scale is None or zero is None or zero.dtype.kind not in "iu":
        return None
    if not given and any(attribute.name == "output_dtype" for attribute in node.attribute):
        return None
    values = constants.get(node.input[0])
    if scale.size > 1:
        if values is None or scale.ndim != 1:
            return None  # where an axis is, only a known rank tells
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [1] * values.ndim
        shape[axis] = scale.size
        scale = scale.reshape(shape)
        zero = zero.reshape(shape) if zero.size > 1 else zero.reshape(())
    else:
        scale, zero = scale.reshape(()), zero.reshape(())
    bounds, result, nodes = np.iinfo(zero.dtype), node.output[0], []
    for name, bound in (("low", bounds.min), ("high", bounds.max)):
        real = ((bound - zero.astype(np.int64)) * scale.astype(np.float64)).astype(scale.dtype)
        tensor = onnx.numpy_helper.from_array(np.asarray(real), f"{result}/{name}")
        nodes.append(onnx.helper.make_node("Constant", [], [f"{result}/{name}"], value=tensor))
    nodes.append(
        onnx.helper.make_node("Max", [node.input[0], f"{result}/low"], [f"{result}/above"])
    )
    nodes.append(onnx.helper.make_node("Min", [f"{result}/above", f"{result}/high"], [result]))
    return nodes


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    import onnx

    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
