"""Models put together from pieces of the float model and of its alternatives.

Tensors of the float model and its large constants are graph inputs, fed at each run: any number of
sessions then share one copy of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.calibration.sensitivity.alternative import Difference, FloatGraph
from rtc.calibration.sensitivity.shapes import is_large
from rtc.compiler.core.arrays import Array

if TYPE_CHECKING:
    import onnx


Dims = tuple[int | str, ...]


class Assembly:
    """A model under construction.

    Attributes:
        nodes: in an order that can be run.
        constants: initialisers by name.
        feeds: the float model's tensors and constants that are read and not computed here.
        ran: for each matrix product in `nodes`, the float model's node that costs as much.
    """

    def __init__(self, opsets: Iterable[onnx.OperatorSetIdProto]) -> None:
        self._opsets = list(opsets)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.feeds: set[str] = set()
        self.ran: list[str] = []
        self._made: set[str] = set()

    def take_float(self, base: FloatGraph) -> None:
        """Compute the whole float model."""
        self.nodes += base.graph.node
        self.feeds |= base.inputs | base.constants.keys()
        self._made |= {name for node in base.graph.node for name in node.output}
        self.ran += base.nodes

    def take(self, change: Difference, tensors: Sequence[str], *, prefix: str) -> dict[str, str]:
        """Compute tensors of an alternative from the float model's; their names here.

        `prefix` goes before the names of everything that differs.
        """
        import onnx

        nodes = change.upstream(tensors)
        taken = {*tensors, *(name for node in nodes for name in node.input if name)}
        self.feeds |= {change.known[name] for name in taken & change.known.keys()} - self._made
        for name in sorted(taken & change.constants.keys()):
            constant = onnx.TensorProto.FromString(change.constants[name].SerializeToString())
            constant.name = prefix + name
            self.constants[constant.name] = constant

        def here(name: str) -> str:
            return change.known.get(name) or (prefix + name if name else "")

        for node in nodes:
            copy = onnx.NodeProto.FromString(node.SerializeToString())
            copy.name = prefix + node.name
            copy.input[:] = [here(name) for name in node.input]
            copy.output[:] = [here(name) for name in node.output]
            self.nodes.append(copy)
        self.ran += [node.name for node in nodes]
        return {name: here(name) for name in tensors}

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output; its name."""
        return self.nodes_of(op, inputs, 1, **attributes)[0]

    def nodes_of(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Add a node with `count` outputs; their names."""
        import onnx

        outputs = [f"rtc/{op}/{len(self.nodes)}/{index}" for index in range(count)]
        self.nodes.append(onnx.helper.make_node(op, inputs, outputs, outputs[0], **attributes))
        return outputs

    def constant(self, values: Array) -> str:
        """Add a constant; its name."""
        import onnx

        name = f"rtc/constant/{len(self.constants)}"
        self.constants[name] = onnx.numpy_helper.from_array(values, name)
        return name

    def error(self, changed: str, true: str) -> str:
        """A tensor minus the one that it should be; `changed` may be of a half type."""
        import onnx

        return self.node("Sub", [self.node("Cast", [changed], to=onnx.TensorProto.FLOAT), true])

    def summed(self, tensor: str, axes: Sequence[int]) -> str:
        """A tensor added up along axes, which go; itself where there are none."""
        if not axes:
            return tensor
        along = self.constant(np.array(axes, np.int64))
        return self.node("ReduceSum", [tensor, along], keepdims=0)

    def sum_of_samples(self, tensor: str) -> str:
        """All elements of each sample, added: (n, …) to (n,)."""
        axis = self.constant(np.array([1], np.int64))
        return self.node("ReduceSum", [self.node("Flatten", [tensor]), axis], keepdims=0)

    def power(self, tensor: str) -> str:
        """All elements of each sample, squared and added: (n, …) to (n,)."""
        return self.sum_of_samples(self.node("Mul", [tensor, tensor]))

    def tensors(self, base: FloatGraph) -> set[str]:
        """The float model's tensors that it is fed."""
        return self.feeds - base.constants.keys()

    def work(self, known: Mapping[str, int]) -> int:
        """Multiply-accumulates for one sample, given those of the float model's nodes."""
        return sum(known.get(name, 0) for name in self.ran)

    def model(
        self, base: FloatGraph, outputs: Sequence[str], more: Mapping[str, Dims] | None = None
    ) -> bytes:
        """The model, with `outputs`; small constants of the float model are in it.

        `more` are float32 inputs besides the float model's tensors.
        """
        import onnx

        declared = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in (more or {}).items()
        ]
        constants = dict(self.constants)
        for name in sorted(self.feeds):
            tensor = base.constants.get(name)
            if tensor is not None and not is_large(tensor):
                constants[name] = tensor
            else:
                kind = base.types[name]
                declared.append(onnx.helper.make_tensor_value_info(name, kind.kind, kind.shape))
        graph = onnx.helper.make_graph(
            self.nodes,
            "rtc",
            declared,
            [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
            list(constants.values()),
        )
        model = onnx.helper.make_model(graph, opset_imports=self._opsets, ir_version=10)
        return bytes(model.SerializeToString())


def shared_constants(base: FloatGraph, assemblies: Iterable[Assembly]) -> dict[str, Array]:
    """The values of the constants that assemblies are fed, by name."""
    import onnx

    names = {name for assembly in assemblies for name in assembly.feeds & base.constants.keys()}
    large = (base.constants[name] for name in names if is_large(base.constants[name]))
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in large}
