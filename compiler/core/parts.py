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
        why: the reason for which it has none, though its operator may.
    """

    node: onnx.NodeProto
    types: Mapping[str, TensorType]
    stored: dict[str, onnx.TensorProto]
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    why: str = ""

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


@dataclass(frozen=True)
class Written:
    """What became of a model's nodes.

    Attributes:
        operators: of the nodes that were written in parts.
        left: a line on each node of these operators that stays, and why.
    """

    operators: frozenset[str]
    left: tuple[str, ...]


def write_parts(
    model: onnx.ModelProto, forms: Mapping[str, Form], but: Mapping[str, str] | None = None
) -> Written:
    """Put their parts in the place of a model's nodes, in place.

    Args:
        model: its constants stand among the initialisers.
        forms: by operator, see `rtc.compiler.core.operators.op_of`.
        but: nodes that stay, by name, and why.
    """
    writer, operators, left = _Writer(model, forms), set[str](), []
    for graph in nested(model.graph):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            parts = writer.parts(node)
            if parts.nodes and but:
                parts.why = but.get(parts.name, "")
            if parts.why:
                left.append(f"{parts.name} ({node.op_type}): {parts.why}")
            if parts.nodes and not parts.why:
                operators.add(op_of(node))
                nodes += parts.nodes
            else:
                nodes.append(_copy(node))
        del graph.node[:]
        graph.node.extend(nodes)
    writer.finish()
    return Written(frozenset(operators), tuple(left))


def add_beside(model: onnx.ModelProto, forms: Mapping[str, Form]) -> dict[str, dict[str, str]]:
    """Let parts compute beside the nodes that they may replace, of the same inputs, in place.

    Returns:
        By node, the tensors that it makes, and those that its parts make for them. Nodes of inner
        graphs have none: what these compute cannot be seen from without.
    """
    writer, pairs, nodes = _Writer(model, forms), dict[str, dict[str, str]](), []
    for node in model.graph.node:
        parts = writer.parts(node)
        nodes.append(_copy(node))
        if not parts.nodes:
            continue
        anew = {name: f"{name}/in_parts" for name in node.output if name}
        for part in parts.nodes:
            part.name = f"{part.name}/in_parts"
            for names in (part.input, part.output):
                names[:] = [anew.get(name, name) for name in names]
        nodes += parts.nodes
        pairs[parts.name] = anew
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    writer.finish()
    return pairs


class _Writer:
    """Makes the parts of a model's nodes, and adds the constants that they need to it."""

    def __init__(self, model: onnx.ModelProto, forms: Mapping[str, Form]) -> None:
        self._model, self._forms = model, forms
        self._types = types_of(model, trusting=True)
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._known = frozenset(self._stored)
        own = (opset.version for opset in model.opset_import if not opset.domain)
        self._opset = next(own, 1)

    def parts(self, node: onnx.NodeProto) -> Parts:
        """The parts of a node: none, and why, where it has none though its operator does."""
        parts = Parts(_copy(node), self._types, self._stored, self._opset)
        try:
            if form := self._forms.get(op_of(node)):
                form(parts)
        except Unwritten as finding:
            parts.why, parts.nodes = str(finding), []
        return parts

    def finish(self) -> None:
        added = (tensor for name, tensor in self._stored.items() if name not in self._known)
        self._model.graph.initializer.extend(added)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    made = type(node)()
    made.CopyFrom(node)
    return made
