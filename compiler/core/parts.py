"""A node of a graph written as several: the parts that stand in its place.

The part that does a layer's work keeps the node's name, so that plans and reports still speak of
the layer by it; the others are named under it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.protos import nested
from rtc.compiler.core.tensors import TensorType, types_of

if TYPE_CHECKING:
    import onnx


class Unwritten(Exception):  # noqa: N818 - a finding, upon which the node stays as it is
    """A node of a form that has no parts."""


@dataclass
class Parts:
    """What stands in the place of one node.

    Attributes:
        node: the node.
        types: of the model's tensors, by name.
        stored: the model's constants; new ones are added to it.
        opset: the model's, of ONNX's own operators.
        nodes: the parts, in the order they compute.
    """

    node: onnx.NodeProto
    types: Mapping[str, TensorType]
    stored: dict[str, onnx.TensorProto]
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The node's, or that of what it makes."""
        return str(self.node.name or self.node.output[0])

    def given(self, index: int) -> str:
        """The name of an input, "" where it is not given."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def wanted(self, index: int) -> bool:
        """Whether the node has this output."""
        return index < len(self.node.output) and bool(self.node.output[index])

    def option(self, name: str, default: Any) -> Any:
        """An attribute's value."""
        from onnx import helper

        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def options(self, *names: str) -> dict[str, Any]:
        """Those of the named attributes that the node has."""
        present = {attribute.name for attribute in self.node.attribute}
        return {name: self.option(name, None) for name in names if name in present}

    def rank(self, tensor: str) -> int:
        """How many axes a tensor has.

        Raises:
            Unwritten: nobody knows.
        """
        known = self.types.get(tensor)
        if known is None or known.shape is None:
            raise Unwritten(f"the rank of {tensor} is not known")
        return len(known.shape)

    def value(self, tensor: str) -> Array:
        """A constant's value.

        Raises:
            Unwritten: it is none.
        """
        from onnx import numpy_helper

        if tensor not in self.stored:
            raise Unwritten(f"{tensor} is no constant")
        return np.asarray(numpy_helper.to_array(self.stored[tensor]))

    def constant(self, what: str, value: Array | float) -> str:
        """The name of a new constant; a plain number is float32."""
        from onnx import numpy_helper

        array = value if isinstance(value, np.ndarray) else np.array(value, np.float32)
        name = f"{self.name}/{what}"
        self.stored[name] = numpy_helper.from_array(array, name)
        return name

    def add(
        self, op: str, *inputs: str, output: int | None = None, layer: bool = False, **options: Any
    ) -> str:
        """Add an operator of ONNX itself; the name of what it makes.

        Args:
            op: its type.
            inputs: the tensors it reads; "" for one that is not given.
            output: which of the node's outputs it makes; None: a tensor between.
            layer: whether it does the node's work, and so keeps its name.
            options: its attributes.
        """
        from onnx import helper

        name = f"{self.name}/{len(self.nodes)}_{op.lower()}"
        made = name if output is None else self.node.output[output]
        present = {key: value for key, value in options.items() if value is not None}
        title = self.name if layer else name
        self.nodes.append(helper.make_node(op, list(inputs), [made], name=title, **present))
        return str(made)


Form = Callable[[Parts], None]
"""Adds the parts of a node of one operator, or raises `Unwritten`."""


def write_parts(model: onnx.ModelProto, forms: Mapping[str, Form]) -> tuple[set[str], list[str]]:
    """Put their parts in the place of a model's nodes, in place.

    Args:
        model: its constants stand among the initialisers.
        forms: by operator, see `rtc.compiler.core.operators.op_of`.

    Returns:
        The operators that were written so, and a line on each node that was not.
    """
    types = types_of(model, trusting=True)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    own = next((opset.version for opset in model.opset_import if not opset.domain), 1)
    before = set(stored)
    written = set[str]()
    left: list[str] = []
    for graph in nested(model.graph):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            kind = op_of(node)
            parts = Parts(_copy(node), types, stored, own)
            try:
                forms.get(kind, _as_it_is)(parts)
            except Unwritten as why:
                left.append(f"{parts.name} ({node.op_type}): {why}")
                parts.nodes = [parts.node]
            else:
                written |= {kind} & forms.keys()
            nodes += parts.nodes
        del graph.node[:]
        graph.node.extend(nodes)
    model.graph.initializer.extend(tensor for name, tensor in stored.items() if name not in before)
    return written, left


def _as_it_is(parts: Parts) -> None:
    parts.nodes.append(parts.node)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    made = type(node)()
    made.CopyFrom(node)
    return made
