"""Half types as a device computes them: every result rounded to FP16 or BF16, overflow included.

ONNX Runtime on x86 keeps float32 between FP16 operators, even unoptimised, and has no BF16 ones. So
a model is rewritten before it runs: operators compute in float32 and each result goes through a
pair of casts,

    y = Op(x)  →  y = Cast(Cast(Op(x) → half) → float)

which ONNX Runtime keeps (it may not remove a cast that loses precision). This is what hardware with
float32 accumulators does. Two forms are known: half types in the graph, and a float32 graph whose
metadata asks the runtime for one (`rtc.half`); there, results that are quantised next are not
rounded, because the runtime keeps integers between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.compiler.core.operators import HALF_KEY, op_of
from rtc.compiler.core.tensors import types_of

if TYPE_CHECKING:
    import onnx

_FLOAT, _FP16, _BF16 = 1, 10, 16  # onnx.TensorProto's numbers
_BY_NAME = {"fp16": _FP16, "bf16": _BF16}
_HALVES = (_FP16, _BF16)
_LARGEST = {_FP16: 65504.0, _BF16: 255 * 2.0**120}
_QUIET = frozenset({"Clip", "Flatten", "MaxPool", "Relu", "Reshape", "Transpose"})


def emulate_half(proto: bytes) -> bytes:
    """The model with its half types emulated; the same bytes where it has none."""
    import onnx

    model = onnx.load_model_from_string(proto)
    asked = _asked(model)
    if asked is None and not _mentions_half(model.graph):
        return proto
    types = {name: tensor.kind for name, tensor in types_of(model, trusting=True).items()}
    if asked is None:
        _widen(model.graph, types)
    else:
        _round_floats(model.graph, types, _BY_NAME[asked])
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())


def asks_for_half(proto: bytes) -> bool:
    """Whether a model asks the runtime for one half type; where it rounds is the runtime's own."""
    import onnx

    return _asked(onnx.load_model_from_string(proto)) is not None


def _asked(model: onnx.ModelProto) -> str | None:
    return {entry.key: entry.value for entry in model.metadata_props}.get(HALF_KEY)


def _mentions_half(graph: onnx.GraphProto) -> bool:
    if any(tensor.data_type in _HALVES for tensor in graph.initializer):
        return True
    if any(value.type.tensor_type.elem_type in _HALVES for value in graph.input):
        return True
    return any(
        attribute.i in _HALVES
        if attribute.name in ("to", "output_dtype")
        else attribute.t.data_type in _HALVES
        for node in graph.node
        for attribute in node.attribute
    )


def _widen(graph: onnx.GraphProto, types: dict[str, int]) -> None:
    """Compute in float32: a half tensor keeps its name and type, and readers take it widened."""
    half = {name: kind for name, kind in types.items() if kind in _HALVES}
    for tensor in graph.initializer:
        if half.pop(tensor.name, None):
            _to_float(tensor)
    nodes = [_cast(name, f"{name}/wide", _FLOAT) for name in _input_names(graph) if name in half]
    for node in graph.node:
        node.input[:] = [f"{name}/wide" if name in half else name for name in node.input]
        _widen_attributes(node)
        rounded = [name for name in node.output if name in half]
        node.output[:] = [f"{name}/unrounded" if name in half else name for name in node.output]
        nodes += in_steps(node, half[rounded[0]]) if rounded else [node]
        for name in rounded:
            nodes.append(_cast(f"{name}/unrounded", name, half[name]))
            nodes.append(_cast(name, f"{name}/wide", _FLOAT))
    _replace(graph, nodes)


def in_steps(node: onnx.NodeProto, half: str | int) -> list[onnx.NodeProto]:
    """A node in half, with what is rounded inside it.

    TensorRT(-RTX) reads a LogSoftmax as the logarithm of a softmax, which is zero where it is below
    6e-8. (Read from its networks: sums of squares and logarithms of sums hold.)
    """
    import onnx

    if op_of(node) != "LogSoftmax":
        return [node]
    kind = _BY_NAME[half] if isinstance(half, str) else half
    (result,) = node.output
    first = onnx.NodeProto.FromString(node.SerializeToString())
    first.op_type, first.output[0] = "Softmax", f"{result}/softmax"
    log = onnx.helper.make_node("Log", [f"{result}/softmax/rounded"], [result])
    return [first, *_round(f"{result}/softmax", f"{result}/softmax/rounded", kind), log]


def _widen_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("to", "output_dtype") and attribute.i in _HALVES:
            attribute.i = _FLOAT
        elif attribute.t.data_type in _HALVES:
            _to_float(attribute.t)


def _round_floats(graph: onnx.GraphProto, types: dict[str, int], half: int) -> None:
    """Round what float layers read and give; integer layers and what is quantised next stay."""
    readers = _readers(graph)
    integers = {n for node in graph.node if op_of(node) == "DequantizeLinear" for n in node.output}
    _round_weights(graph, integers, half)
    floats = [name for name in _input_names(graph) if types.get(name) == _FLOAT]
    nodes = [cast for name in floats for cast in _round(name, f"{name}/rounded", half)]
    for node in graph.node:
        if op_of(node) not in ("QuantizeLinear", "DequantizeLinear"):
            for index, name in enumerate(node.input):
                if name in floats:
                    node.input[index] = f"{name}/rounded"
        nodes.append(node)
        if op_of(node) == "DequantizeLinear":
            continue
        for index, name in enumerate(node.output):
            if types.get(name) == _FLOAT and not _quantised_next(name, readers):
                node.output[index] = f"{name}/unrounded"
                nodes.extend(_round(node.output[index], name, half))
    _replace(graph, nodes)


def _round_weights(graph: onnx.GraphProto, integers: set[str], half: int) -> None:
    """Round the constants of float layers, under names of their own: others may share them.

    What is beyond the type is its largest number: OpenVINO has a mask of finfo.min finite in BF16.
    """
    import onnx

    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == _FLOAT}
    rounded: set[str] = set()
    for node in graph.node:
        linear = op_of(node) in ("QuantizeLinear", "DequantizeLinear")
        if linear or any(name in integers for name in node.input):
            continue
        for index, name in enumerate(node.input):
            if name in constants:
                node.input[index] = f"{name}/rounded"
                rounded.add(name)
    for name in sorted(rounded):
        values = onnx.numpy_helper.to_array(constants[name])
        within = np.clip(values, -_LARGEST[half], _LARGEST[half])
        near = np.where(np.isinf(values), values, within).astype(_numpy_type(half))
        stored = near.astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(stored, f"{name}/rounded"))


def _quantised_next(name: str, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Whether all that becomes of a tensor is integers: Q, perhaps after what fuses before it."""
    nodes = readers.get(name, [])
    return bool(nodes) and all(
        op_of(node) == "QuantizeLinear"
        or (op_of(node) in _QUIET and _quantised_next(node.output[0], readers))
        for node in nodes
    )


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _input_names(graph: onnx.GraphProto) -> list[str]:
    return [value.name for value in graph.input]


def _numpy_type(half: int) -> np.dtype[Any]:
    import onnx

    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(half))


def _to_float(tensor: onnx.TensorProto) -> None:
    import onnx

    values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _cast(source: str, result: str, to: int) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node("Cast", [source], [result], to=to)


def widened(emulated: bytes, tensors: Iterable[str]) -> dict[str, str]:
    """The float32 tensor that holds each of `tensors` in a model that `emulate_half` gave."""
    import onnx

    graph = onnx.load_model_from_string(emulated).graph
    made = {name for node in graph.node for name in node.output}
    return {name: f"{name}/wide" if f"{name}/wide" in made else name for name in tensors}


def rounded(source: str, result: str, half: str) -> list[onnx.NodeProto]:
    """Nodes that make `result` of `source`: float32, rounded as "fp16" or "bf16" would hold it."""
    return _round(source, result, _BY_NAME[half])


def _round(source: str, result: str, half: int) -> list[onnx.NodeProto]:
    return [_cast(source, f"{result}/half", half), _cast(f"{result}/half", result, _FLOAT)]


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put `nodes`, some of which are the graph's own, in place of the graph's nodes."""
    import onnx

    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
