"""What the CPU runtimes read from the ONNX graph itself: its signature, and its nodes by name."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.operators import NOT_COMPUTING, WEIGHTED, op_of
from rtc.compiler.core.unit import Signature, TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto


def parse(graph: bytes) -> ModelProto:
    """The model of these bytes.

    Raises:
        ModelError: they are not a serialised ONNX model with a graph.
    """
    import onnx

    try:
        model = onnx.load_from_string(graph)
    except Exception as cause:  # protobuf's errors have no common public class
        raise ModelError("not a serialised ONNX model", id="unreadable-model") from cause
    if not model.graph.node:
        raise ModelError("an ONNX model without nodes", id="empty-model")
    return model


def drop_empty_ends(model: ModelProto) -> None:
    """Take away the empty names at the end of a node's inputs: they say the same as nothing."""
    for node in model.graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]


def signature(model: ModelProto) -> Signature:
    """Inputs (weights are none) and outputs of a model; a dynamic dimension goes by its name."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return Signature(
        tuple(_spec(value) for value in model.graph.input if value.name not in weights),
        tuple(_spec(value) for value in model.graph.output),
    )


def _spec(value: ValueInfoProto) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    shape = (
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"dim{axis}"
        for axis, dim in enumerate(tensor.shape.dim)
    )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return TensorSpec(value.name, str(dtype), tuple(shape))


@dataclass(frozen=True)
class NodeIndex:
    """Nodes of a graph by the labels that runtimes give to what they make of them."""

    nodes: tuple[NodeProto, ...]

    @cached_property
    def by_name(self) -> dict[str, int]:
        """Where the node of a name stands."""
        return {node.name: index for index, node in enumerate(self.nodes) if node.name}

    @cached_property
    def by_output(self) -> dict[str, int]:
        """Where the node that makes a tensor stands."""
        return {tensor: i for i, node in enumerate(self.nodes) for tensor in node.output if tensor}

    @cached_property
    def tensors(self) -> frozenset[str]:
        """Every tensor that a node reads or writes."""
        return frozenset(t for node in self.nodes for t in (*node.input, *node.output))

    def producers(self, node: int) -> tuple[int, ...]:
        """The nodes that write what this one reads."""
        inputs = self.nodes[node].input
        return tuple(self.by_output[tensor] for tensor in inputs if tensor in self.by_output)

    @cached_property
    def products(self) -> frozenset[int]:
        """The nodes that multiply by weights, or two activations."""
        return frozenset(i for i, node in enumerate(self.nodes) if op_of(node) in WEIGHTED)

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """The nodes that read each tensor."""
        places: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for tensor in node.input:
                places.setdefault(tensor, []).append(i)
        return places

    def way_on(self, node: int, known: Container[int]) -> tuple[int, ...]:
        """The nodes that a node's result goes through up to the first known one; () at a fork."""
        path: list[int] = []
        while not path or path[-1] not in known:
            following = self.readers.get(self.nodes[node].output[0], [])
            if len(following) != 1:
                return ()
            node = following[0]
            path.append(node)
        return tuple(path)

    def find(self, label: str) -> int | None:
        """The node that a label stands for: its name, or a tensor that it writes.

        Runtimes append what they did (`/fc/Gemm/WithoutBiases`), so the longest part of the label
        that ends before a "/" and is known counts.
        """
        while label:
            if label in self.by_name:
                return self.by_name[label]
            if label in self.by_output:
                return self.by_output[label]
            label = label.rpartition("/")[0]
        return None

    def names(self, indices: Iterable[int]) -> tuple[str, ...]:
        """Names in graph order; a node without one goes by its first output."""
        chosen = (self.nodes[index] for index in sorted(set(indices)))
        return tuple(node.name or node.output[0] for node in chosen)

    def computes(self, indices: Iterable[int]) -> bool:
        """Whether any of these nodes does more than move values."""
        return any(op_of(self.nodes[index]) not in NOT_COMPUTING for index in indices)
