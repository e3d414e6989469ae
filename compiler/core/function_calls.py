"""Operators of a model replaced by calls of functions that stand in the model itself.

A function's body is ONNX text; runtimes put it in the call's place when they load the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.core.operators import ONNX
from rtc.compiler.core.tensors import TensorType

if TYPE_CHECKING:
    import onnx

DOMAIN = "rtc.exact"
_OPSET = 17  # of functions in a model that uses no operator of ONNX itself


@dataclass
class Calls:
    """A model whose nodes are being replaced by calls; what they need is added to it at the end."""

    model: onnx.ModelProto
    types: Mapping[str, TensorType]
    functions: dict[str, str] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)

    def constant(self, value: float) -> str:
        """The name of a float scalar."""
        name = f"{DOMAIN}/{value}"
        self.constants[name] = value
        return name

    def call(
        self,
        node: onnx.NodeProto,
        variant: str,
        operands: dict[str, str],
        body: str,
        *,
        attributes: Sequence[str] = (),
        outputs: Sequence[str] = ("y",),
    ) -> None:
        """Make the node a call of a function with this body.

        Args:
            node: the node; its outputs stay.
            variant: a name for all nodes that need the same body.
            operands: what the body calls its inputs, and the tensor that is given for each.
            body: lines of ONNX text.
            attributes: those of the node that the body refers to.
            outputs: what the body calls the node's outputs.
        """
        head = f"<{', '.join(attributes)}>" if attributes else ""
        self.functions[variant] = (
            f"{variant} {head} ({', '.join(operands)}) => ({', '.join(outputs)}) {{\n{body}}}"
        )
        node.domain, node.op_type = DOMAIN, variant
        node.input[:] = operands.values()
        kept = [attribute for attribute in node.attribute if attribute.name in attributes]
        del node.attribute[:]
        node.attribute.extend(kept)

    def finish(self) -> bytes:
        """The model with its functions and constants in it."""
        import onnx

        model, opsets = self.model, self.model.opset_import
        if not any(opset.domain in ONNX for opset in opsets):
            opsets.append(onnx.helper.make_opsetid("", _OPSET))
        imports = ", ".join(f'"{opset.domain}" : {opset.version}' for opset in opsets)
        head = f'<domain: "{DOMAIN}", opset_import: [{imports}]>'
        for text in self.functions.values():
            model.functions.append(onnx.parser.parse_function(f"{head}\n{text}"))
        for name, value in self.constants.items():
            tensor = onnx.numpy_helper.from_array(np.array(value, np.float32), name)
            model.graph.initializer.append(tensor)
        if self.functions:
            opsets.append(onnx.helper.make_opsetid(DOMAIN, 1))
            model.ir_version = max(model.ir_version, 8)  # the first with functions
        return bytes(model.SerializeToString())


def input_at(node: onnx.NodeProto, index: int) -> str:
    """The name of a node's input, "" where it is not given."""
    return node.input[index] if index < len(node.input) else ""


def option_of(node: onnx.NodeProto, name: str) -> int:
    """A whole number among a node's attributes; 0 where it is not given."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def present_options(node: onnx.NodeProto, known: dict[str, str]) -> list[str]:
    """Which of the known attributes a node has."""
    return sorted(attribute.name for attribute in node.attribute if attribute.name in known)


def handed_on(known: dict[str, str], present: Sequence[str]) -> str:
    """The node's attributes, as a line of a body hands them on."""
    given = ", ".join(f"{name}: {known[name]} = @{name}" for name in present)
    return f"<{given}>" if given else ""


def variant_of(*parts: object) -> str:
    """A name for the nodes that need one body, of what the body depends on."""
    return "_".join(map(str, parts))
