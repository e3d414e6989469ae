"""What rules of gradients are written with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.calibration.sensitivity.alternative import FloatGraph
from rtc.calibration.sensitivity.assembly import Assembly
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.tensors import Shape

if TYPE_CHECKING:
    import onnx

Gradients = Iterable[tuple[str, str]]
"""(input of a node, gradient that reaches it through that node), by tensor name."""


class Writer:
    """Writes operators into an assembly that is fed the float model's tensors, or computes them.

    Attributes:
        base: the float model.
        to: the assembly.
        moving: tensors that depend on one whose gradient is wanted.
        found: the gradient of each tensor that has been walked past.
    """

    def __init__(self, base: FloatGraph, assembly: Assembly) -> None:
        self.base, self.to = base, assembly
        self.moving: set[str] = set()
        self.found: dict[str, str] = {}
        self._kept: dict[tuple[str, str], str] = {}

    @property
    def opset(self) -> int:
        """The model's."""
        own = (opset.version for opset in self.base.model.opset_import if not opset.domain)
        return next(own, 1)

    def node(self, op: str, *inputs: str, **options: Any) -> str:
        """A new node of one output; its name."""
        return self.to.node(op, inputs, **options)

    def constant(self, values: Any, kind: type = np.float32) -> str:
        """A new constant; its name."""
        return self.to.constant(np.asarray(values, kind))

    def axes(self, axes: Iterable[int]) -> str:
        """A new constant of whole numbers, such as axes; its name."""
        return self.to.constant(np.array(list(axes), np.int64))

    def once(self, node: onnx.NodeProto, what: str, make: Callable[[], str]) -> str:
        """What a node's gradients have in common, whatever vector they are of."""
        key = (node.output[0], what)
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def shape(self, node: onnx.NodeProto, name: str) -> Shape:
        """A tensor's shape, with the base's mark for the batch.

        Raises:
            ModelError: it is not known.
        """
        if name not in self.base.shapes:
            raise no_gradient(node, "of shapes that are not known")
        return self.base.shapes[name]

    def rank(self, node: onnx.NodeProto, name: str) -> int:
        """How many axes a tensor has; errors as `shape`."""
        known = self.base.types.get(name)
        if known is None or known.shape is None:
            raise no_gradient(node, "of shapes that are not known")
        return len(known.shape)

    def size(self, node: onnx.NodeProto, name: str, axis: int) -> str:
        """One size of a tensor, as a tensor (1,)."""
        size = self.shape(node, name)[axis]
        if size % self.base.mark:
            return self.axes([size])
        return self.node("Gather", self.shape_of(name), self.axes([axis]))

    def shape_of(self, name: str) -> str:
        """A tensor's shape when it runs, as a tensor."""
        key = (name, "shape")
        if key not in self._kept:
            self._kept[key] = self.node("Shape", name)
        return self._kept[key]

    def value(self, node: onnx.NodeProto, index: int) -> Array | None:
        """The constant at an input of a node; None where there is none, or no constant."""
        import onnx

        name = node.input[index] if index < len(node.input) else ""
        tensor = self.base.constants.get(name)
        return None if tensor is None else onnx.numpy_helper.to_array(tensor)

    def zeros(self, name: str) -> str:
        """Zeros of a tensor's shape."""
        return self.node("ConstantOfShape", self.shape_of(name))

    def like(self, g: str, name: str) -> str:
        """A gradient in a tensor's own shape, of as many elements."""
        return self.node("Reshape", g, self.shape_of(name))

    def added(self, g: str, axes: Iterable[int], *, keep: bool = True) -> str:
        """A gradient added up along axes."""
        axes = list(axes)
        return self.node("ReduceSum", g, self.axes(axes), keepdims=int(keep)) if axes else g

    def unbroadcast(self, node: onnx.NodeProto, name: str, g: Callable[[], str]) -> Gradients:
        """A gradient (in the shape of the node's output) for an input that was broadcast to it."""
        if name not in self.moving:
            return
        own, full = self.shape(node, name), self.shape(node, node.output[0])
        extra = len(full) - len(own)
        axes = [i for i in range(len(own)) if own[i] == 1 and full[i + extra] != 1]
        gradient = self.added(g(), range(extra), keep=False)
        yield name, self.added(gradient, axes)

    def refuse_moving(self, node: onnx.NodeProto, indices: Iterable[int], how: str) -> None:
        """Refuse inputs that depend on a wanted tensor, of an operator that is a product of them.

        Raises:
            ModelError: one does.
        """
        if any(node.input[i] in self.moving for i in indices if i < len(node.input)):
            raise no_gradient(node, how)

    def ran(self, node: onnx.NodeProto) -> None:
        """Count the node's work once more."""
        self.to.ran.append(node.name)


Rule = Callable[[Writer, "onnx.NodeProto", str], Gradients]
"""Given the gradient of a node's first output, those of its inputs."""


def attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    """A node's attributes as Python has them; text is bytes."""
    import onnx

    return {
        attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute
    }


def no_gradient(node: onnx.NodeProto, how: str) -> ModelError:
    """The error of an operator that stops a gradient."""
    return ModelError(
        f"the fast sensitivity analysis knows no gradient of {node.op_type} {how}".rstrip(),
        where=f"layer {node.name}",
        fix="use the exact one",
        id="no-gradient",
    )
