"""What is known of the integers that a graph computes of its tensors' sizes.

A value is an array of elements, each a number, a `Size` (an unknown size, times a number), or None.

    Shape(x: N × 8 × 7)  →  [N, 8, 7]       Gather → 8       Mul(8, 7) → 56       Concat → [N, 56]

Operators that move elements move these; arithmetic is done where both sides are known, and a Size
comes through what leaves it a product. Sizes are never negative, so none equals -1.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtc.compiler.core.arrays import Int64Array
from rtc.compiler.core.operators import op_of
from rtc.passes.support.onnx_graph import dtype_of, is_constant

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Values = npt.NDArray[np.object_]

_PRODUCT = re.compile(r"(?:(\d+)\*)?([a-zA-Z_]\w*(?:\*[a-zA-Z_]\w*)*)")
_MOST = 64  # elements of a value: shapes, starts and ends have no more


@dataclass(frozen=True)
class Size:
    """The product of unknown sizes and a positive number: 64·N.

    Attributes:
        factor: the number.
        names: the sizes, sorted.
    """

    factor: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "*".join([str(self.factor)] * (self.factor != 1) + list(self.names))


Element = int | bool | Size | None


def size_of(dim: int | str | None) -> Element:
    """An element for a dimension as graphsurgeon has it: a number, a name, or None."""
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    if not dim:
        return None
    product = _PRODUCT.fullmatch(dim)  # as `str` writes it; an exporter's own terms stay whole
    if product is None:
        return Size(1, (dim,))
    factor, names = product.groups()
    return Size(int(factor or 1), tuple(sorted(names.split("*"))))


class KnownValues:
    """Values by tensor, found node by node in graph order."""

    def __init__(self) -> None:
        self._found: dict[int, Values] = {}

    def of(self, tensor: gs.Tensor) -> Values | None:
        """A tensor's value; None where nothing is known of it."""
        if not is_constant(tensor):
            return self._found.get(id(tensor))
        kind = dtype_of(tensor)
        if kind is None or kind.kind not in "iub" or math.prod(tensor.shape) > _MOST:
            return None
        return np.asarray(tensor.values).astype(object)

    def visit(self, node: gs.Node) -> Values | None:
        """Find the value of a node's first output, from those of what it reads."""
        values = self._computed(node)
        if values is not None and values.size <= _MOST:
            self._found[id(node.outputs[0])] = values
            return values
        return None

    def _computed(self, node: gs.Node) -> Values | None:
        if len(node.outputs) != 1:
            return None
        if op_of(node) in ("Shape", "Size"):
            return _of_shape(node)
        rule = _RULES.get(op_of(node))
        inputs = [self.of(tensor) if tensor.name else None for tensor in node.inputs]
        if rule is None or not inputs or inputs[0] is None:
            return None
        try:
            return rule(node, inputs)
        except (ValueError, IndexError, TypeError, ZeroDivisionError):  # it would not run either
            return None


def known(values: Values | None) -> bool:
    """Whether a value is all numbers."""
    return values is not None and all(isinstance(value, int) for value in values.flat)


def _of_shape(node: gs.Node) -> Values | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    elements = [size_of(dim) for dim in shape]
    if op_of(node) == "Size":
        return _array(product(elements), ())
    elements = elements[node.attrs.get("start", 0) : node.attrs.get("end")]
    return _array(elements, (len(elements),))


def _array(elements: npt.ArrayLike | Element | Sequence[Element], shape: tuple[int, ...]) -> Values:
    made = np.empty(shape, object)
    made[...] = elements
    return made


# ---- arithmetic of elements ----


def times(a: Element, b: Element) -> Element:
    """The product."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if 0 in (a, b):
        return 0
    if a is None or b is None:
        return None
    (m, left), (n, right) = (
        (size.factor, size.names) if isinstance(size, Size) else (size, ()) for size in (a, b)
    )
    return Size(m * n, tuple(sorted(left + right))) if m * n > 0 else None


def over(a: Element, b: Element) -> Element:
    """The quotient, towards zero as ONNX has it; None where it is not known to be whole."""
    if isinstance(a, int) and isinstance(b, int):
        return int(math.copysign(1, a * b)) * (abs(a) // abs(b))
    if not isinstance(a, Size) or b is None or b == 0:
        return None
    factor, names = (b.factor, b.names) if isinstance(b, Size) else (b, ())
    left = list(a.names)
    for name in names:
        if name not in left:
            return None
        left.remove(name)
    if factor < 0 or a.factor % factor:
        return None
    return Size(a.factor // factor, tuple(left)) if left else a.factor // factor


def product(elements: Iterable[Element]) -> Element:
    """The product of all."""
    total: Element = 1
    for element in elements:
        total = times(total, element)
    return total


def broadcast(a: Element, b: Element) -> Element:
    """The size that two give which go together: a number is the result wherever it is not 1."""
    if 1 in (a, b):
        return b if a == 1 else a
    return a if a == b else next((size for size in (a, b) if isinstance(size, int)), None)


def _plus(a: Element, b: Element) -> Element:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return a if b == 0 else b if a == 0 else None


def _minus(a: Element, b: Element) -> Element:
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    if b == 0:
        return a
    return 0 if isinstance(a, Size) and a == b else None


def _equal(a: Element, b: Element) -> Element:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if isinstance(a, Size) and a == b:
        return True
    return False if any(isinstance(size, int) and size < 0 for size in (a, b)) else None


def _of_numbers(
    function: Callable[[Any, Any], Any],
) -> Callable[[Element, Element], Element]:
    def computed(a: Element, b: Element) -> Element:
        both = isinstance(a, int) and isinstance(b, int)
        return function(a, b) if both else None

    return computed


def _chosen(condition: Element, a: Element, b: Element) -> Element:
    if condition is None:
        return a if a == b else None
    return a if condition else b


# ---- rules ----

Inputs = list[Any]
"""What a node reads: `Values` each, or None where nothing is known; a rule asks before it reads."""
SizeRule = Callable[["gs.Node", Inputs], "Values | None"]


def _elementwise(function: Callable[..., Element]) -> SizeRule:
    count = function.__code__.co_argcount

    def rule(_: gs.Node, inputs: Inputs) -> Values | None:
        if len(inputs) != count or any(name is None for name in inputs):
            return None
        values = np.frompyfunc(function, count, 1)(*inputs)
        return _array(values, np.shape(values))

    return rule


def _axes(node: gs.Node, given: Values | None) -> list[int] | None:
    """Axes, which older operators have as an attribute; None where they are computed."""
    if given is not None:
        return [int(axis) for axis in np.reshape(given, -1)] if known(given) else None
    return None if len(node.inputs) > 1 else node.attrs.get("axes")


def _gather(node: gs.Node, inputs: Inputs) -> Values | None:
    values, indices = inputs
    if indices is None or not known(indices):
        return None
    taken = np.take(values, indices.astype(np.int64), axis=node.attrs.get("axis", 0))
    return _array(taken, np.shape(taken))


def _slice(node: gs.Node, inputs: Inputs) -> Values | None:
    if len(node.inputs) == 1:
        starts, ends = node.attrs["starts"], node.attrs["ends"]
        axes, steps = node.attrs.get("axes"), None
    else:
        parts = [*inputs[1:], None, None][:4]
        if any(p is None and t.name for p, t in zip(parts, node.inputs[1:], strict=False)):
            return None
        starts, ends, axes, steps = (None if part is None else part.tolist() for part in parts)
    values = inputs[0]
    steps = steps or [1] * len(starts)
    for axis, *cut in zip(axes or range(len(starts)), starts, ends, steps, strict=True):
        if not all(isinstance(place, int) for place in cut):
            return None
        values = np.take(values, _places(values.shape[axis], *cut), axis)
    return np.asarray(values)


def _places(size: int, start: int, end: int, step: int) -> Int64Array:
    """What a Slice takes of an axis. Unlike Python's, it starts at a place that is there."""
    start, end = (each + size if each < 0 else each for each in (start, end))
    low, high = (0, size) if step > 0 else (-1, size - 1)
    return np.arange(min(max(start, 0), high), min(max(end, low), high), step)


def _concat(node: gs.Node, inputs: Inputs) -> Values | None:
    if any(name is None for name in inputs):
        return None
    return np.concatenate(inputs, axis=node.attrs["axis"])


def _unsqueeze(node: gs.Node, inputs: Inputs) -> Values | None:
    axes = _axes(node, inputs[1] if len(inputs) > 1 else None)
    return None if axes is None else np.expand_dims(inputs[0], tuple(axes))


def _squeeze(node: gs.Node, inputs: Inputs) -> Values | None:
    axes = _axes(node, inputs[1] if len(inputs) > 1 else None)
    if axes is None and len(inputs) > 1:
        return None
    values = np.squeeze(inputs[0], None if axes is None else tuple(axes))
    return _array(values, np.shape(values))


def _reshape(_: gs.Node, inputs: Inputs) -> Values | None:
    return inputs[0].reshape(inputs[1].tolist()) if known(inputs[1]) else None


def _expand(_: gs.Node, inputs: Inputs) -> Values | None:
    if not known(inputs[1]):
        return None
    shape = np.broadcast_shapes(inputs[0].shape, tuple(inputs[1].tolist()))
    return np.array(np.broadcast_to(inputs[0], shape))


def _reduce_product(node: gs.Node, inputs: Inputs) -> Values | None:
    axes = _axes(node, inputs[1] if len(inputs) > 1 else None)
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        computed = axes is None and len(node.inputs) > 1 and node.inputs[1].name
        return None if computed else inputs[0]
    if inputs[0].ndim != 1 or (axes and axes not in ([0], [-1])):
        return None
    return _array(product(inputs[0]), (1,) if node.attrs.get("keepdims", 1) else ())


def _same(node: gs.Node, inputs: Inputs) -> Values | None:
    kind = dtype_of(node.outputs[0])
    return inputs[0] if kind is not None and kind.kind in "iu" else None


_RULES: dict[str, SizeRule] = {
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Expand": _expand,
    "ReduceProd": _reduce_product,
    "Cast": _same,
    "Identity": _same,
    "Mul": _elementwise(times),
    "Div": _elementwise(over),
    "Add": _elementwise(_plus),
    "Sub": _elementwise(_minus),
    "Equal": _elementwise(_equal),
    "Where": _elementwise(_chosen),
    "Less": _elementwise(_of_numbers(operator.lt)),
    "LessOrEqual": _elementwise(_of_numbers(operator.le)),
    "Greater": _elementwise(_of_numbers(operator.gt)),
    "GreaterOrEqual": _elementwise(_of_numbers(operator.ge)),
    "And": _elementwise(_of_numbers(operator.and_)),
    "Or": _elementwise(_of_numbers(operator.or_)),
    "Max": _elementwise(_of_numbers(max)),
    "Min": _elementwise(_of_numbers(min)),
}
