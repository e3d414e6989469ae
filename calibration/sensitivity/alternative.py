"""A model with one layer changed, and where it differs from the float model.

The two graphs are compared by value numbering (Alpern, Wegman & Zadeck, POPL 1988): a tensor of the
changed model is *known* where the same operator, with the same attributes, computes it from known
tensors. What is not known and reaches the output lies downstream of the change. So whatever a pass
did to the layer is run as the pass wrote it; nothing here knows how a layer is quantised.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.calibration.sensitivity.shapes import marked_shapes
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import DataError
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.tensors import BATCH, tensor_types, typed

if TYPE_CHECKING:
    import onnx

_FUSED = ("Relu", "Clip")  # runtimes compute them with the layer before

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Alternative:
    """One layer in one precision.

    Attributes:
        layer: name of the node; it has that name in the changed model as well.
        precision: what the layer runs in.
        proto: the changed model. Constants that it shares with the float model may be graph inputs
            of the same names, so that a thousand alternatives do not hold a thousand copies.
    """

    layer: str
    precision: Precision
    proto: bytes


class FloatGraph:
    """The float model's graph, numbered.

    Attributes:
        graph: with the type of every tensor.
        types: by tensor name; a tensor that nobody can tell the type of is absent.
        shapes: those that are known wholly, with `mark` for the batch.
        mark: what the batch is in `shapes`: the one that the input is fixed to, or a large prime.
        logits: name of the model's first output, be it logits or what follows from them.
        batch: the batch that the model's input is fixed to, or None.
        constants: initialisers by name.
        inputs: names of the graph's inputs.
        nodes: by name.
        numbers: the tensor (of the given output index) for each operator on known tensors.
    """

    def __init__(self, proto: bytes) -> None:
        import onnx

        self.model = onnx.load_model_from_string(proto)
        typed(self.model, trusting=True)
        self.graph = self.model.graph
        self.types = tensor_types(self.graph)
        self.shapes = marked_shapes(self.model)
        self.logits: str = self.graph.output[0].name
        first = self.graph.input[0].type.tensor_type.shape.dim[0]
        self.batch: int | None = first.dim_value or None
        self.mark = self.batch or BATCH
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.inputs = {value.name for value in self.graph.input}
        self.nodes = {node.name: node for node in self.graph.node}
        self.numbers: dict[Key, str] = {}
        for node in self.graph.node:
            for index, name in enumerate(node.output):
                self.numbers.setdefault((*_key(node, node.input), index), name)

    def refuse_not_finite(self, values: Mapping[str, Array], start: int, count: int) -> None:
        """Name the first layer, in graph order, with a value that is NaN or infinite.

        What is minus infinity is masked: a softmax makes zeros of it.

        Args:
            values: by tensor name, samples first, or what only finite ones add up to.
            start: index of the first sample among all.
            count: how many samples there are.

        Raises:
            DataError: there is one.
        """
        for node in self.graph.node:
            for name in node.output:
                seen = values.get(name)
                if seen is None or seen.dtype.kind != "f" or np.isfinite(seen.sum(dtype=float)):
                    continue
                rows = np.atleast_1d(seen)
                fine = (rows < np.inf).reshape(len(rows), -1).all(axis=1)
                if not fine.all():
                    sample = start + int(fine.argmin()) * count // len(rows)
                    raise DataError(
                        "an activation is NaN or infinite",
                        where=f"layer {node.name}",
                        seen=f"tensor {name}, sample {sample}",
                        fix="check the preprocessing and the model's weights",
                        id="not-finite-activation",
                    )


class Difference:
    """Where an alternative differs from the float model.

    Attributes:
        known: the float model's tensor for each tensor of the changed model that equals one.
        constants: the changed model's initialisers that are not known, by name.
        end, float_end: where the change leaves the layer, in either model: its output, after the
            activation that is fused into it and after what was inserted behind that.
        logits: the changed model's first output.
    """

    def __init__(self, base: FloatGraph, alternative: Alternative) -> None:
        import onnx

        self.graph = onnx.load_model_from_string(alternative.proto).graph
        self.logits: str = self.graph.output[0].name
        self._outputs = {value.name for value in self.graph.output}
        shared = base.inputs | set(base.constants)
        self.known = {value.name: value.name for value in self.graph.input if value.name in shared}
        self.constants: dict[str, onnx.TensorProto] = {}
        for tensor in self.graph.initializer:
            if base.constants.get(tensor.name) == tensor:
                self.known[tensor.name] = tensor.name
            else:
                self.constants[tensor.name] = tensor
        for node in self.graph.node:
            self._number(base, node)
        self.end, self.float_end = self._find_end(base, alternative.layer)

    def upstream(self, tensors: Iterable[str]) -> list[onnx.NodeProto]:
        """The nodes that compute `tensors` from known ones, in graph order."""
        wanted, nodes = set(tensors), []
        for node in reversed(self.graph.node):
            if any(name in wanted and name not in self.known for name in node.output):
                nodes.append(node)
                wanted |= set(node.input)
        return nodes[::-1]

    def _number(self, base: FloatGraph, node: onnx.NodeProto) -> None:
        inputs = [self.known.get(name, "") for name in node.input]
        if any(name and not seen for name, seen in zip(node.input, inputs, strict=True)):
            return
        for index, name in enumerate(node.output):
            number = base.numbers.get((*_key(node, inputs), index))
            if number is not None:
                self.known[name] = number

    def _find_end(self, base: FloatGraph, layer: str) -> tuple[str, str]:
        readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for name in node.input:
                readers[name].append(node)
        node = next(node for node in self.graph.node if node.name == layer)
        end, float_end = node.output[0], base.nodes[layer].output[0]
        while end not in self._outputs and len(readers[end]) == 1:
            node = readers[end][0]
            twin = base.nodes.get(node.name)
            if twin is not None and op_of(twin) not in _FUSED:
                break
            end, float_end = node.output[0], twin.output[0] if twin else float_end
        return end, float_end


def _key(node: onnx.NodeProto, inputs: Iterable[str]) -> Key:
    attributes = sorted(
        attribute.SerializeToString(deterministic=True) for attribute in node.attribute
    )
    return (op_of(node), tuple(attributes), tuple(inputs))
