"""The part of a model that some of its tensors need."""

from __future__ import annotations

from collections.abc import Sequence


def prefix(proto: bytes, tensors: Sequence[str], given: Sequence[str] = ()) -> bytes:
    """The model with `tensors` as its only outputs, without the nodes that none of them needs.

    Tensors that are `given` are float32 inputs beside the model's own, and not computed.
    """
    import onnx

    model = onnx.load_model_from_string(proto)
    graph, needed, kept = model.graph, set(tensors), []
    for node in reversed(graph.node):
        if needed.difference(given).intersection(node.output):
            needed.update(node.input)
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    constants = [
        onnx.TensorProto.FromString(constant.SerializeToString()) for constant in constants
    ]
    for field in (graph.node, graph.initializer, graph.output, graph.value_info):
        del field[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors)
    kind = onnx.TensorProto.FLOAT
    graph.input.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name in given)
    return bytes(model.SerializeToString())
