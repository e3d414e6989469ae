"""Incoming quantisation in the one form that TensorRT-RTX takes: int8 with zero points of 0.

What each rewrite computes is the same, up to float32's rounding:

    DQ(c, s, z), c constant         →  (c - z) · s                      int32, uint8, or z ≠ 0
    DQ(c, s, 128), c uint8          →  DQ(c - 128 as int8, s, 0)
    Q(x, s, 128) … DQ(q, s, 128)    →  Q(x, s, 0) … DQ(q, s, 0)         uint8 → int8
    Q(x, s, z)                      →  Clip(Round(x / s) + z, low, high)
    DQ(q, s, z)                     →  (q - z) · s

The last two hold integers in floats, for other zero points and for 16 bits; between Q and DQ there
may be what moves integers. What is not of these forms is left as it is, for others to refuse.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.protos import nested
from rtc.targets.backends.integer_products import INT8, UINT8, run
from rtc.targets.backends.onnx_sizes import Sizes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_FLOAT, _INT32, _UINT4, _INT4 = 1, 6, 21, 22  # onnx.TensorProto's numbers
_LIMITS = {UINT8: (0, 255), INT8: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}
_CONSTANT = {*_LIMITS, _INT32, _UINT4, _INT4}
_MIDDLE = 128
_OPSET = 13  # Clip with inputs, and Q/DQ with an axis
_LISTED = 3  # names that a note gives
# fmt: off
_MOVING = frozenset({
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad",
    "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})
# fmt: on
_FLOAT_MODEL = "let rtc quantise the float model, or quantise it to int8 with zero points of 0"


def make_symmetric(model: ModelProto) -> tuple[str, ...]:
    """Rewrite a model in place; notes on what INT8 is lost by, and what to do about it."""
    if not any(op_of(node) == "DequantizeLinear" for node in model.graph.node):
        return ()
    if any(not opset.domain and opset.version < _OPSET for opset in model.opset_import):
        return ()
    widened = _Constants(model).rewrite()
    rounded = _Activations(model, Sizes.infer(model)).rewrite()
    del model.graph.value_info[:]
    return tuple(_notes(widened, rounded))


def _notes(widened: Sequence[str], rounded: Sequence[str]) -> Iterator[str]:
    if rounded:
        yield (
            f"TensorRT-RTX takes int8 with zero points of 0: {_some(rounded)} have others, so they"
            " round and clip in float, and the layers that read them run in float. For INT8"
            f" {_FLOAT_MODEL}."
        )
    if widened:
        yield (
            f"TensorRT-RTX takes int8 with zero points of 0: the constants of {_some(widened)} have"
            f" others and are stored as floats. For INT8 {_FLOAT_MODEL}."
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


@dataclass
class _Graph:
    """A graph whose nodes are being replaced, by the tensor that they make."""

    model: ModelProto
    stored: dict[str, TensorProto] = field(init=False)
    instead: dict[str, list[NodeProto]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stored = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def constant(self, name: str, value: Array) -> str:
        """The name of a new constant."""
        from onnx import numpy_helper

        if name not in self.stored:
            self.stored[name] = numpy_helper.from_array(value, name)
            self.model.graph.initializer.append(self.stored[name])
        return name

    def value(self, name: str) -> Array:
        from onnx import numpy_helper

        array: Array = numpy_helper.to_array(self.stored[name])
        return array

    def zero(self, node: NodeProto) -> Array:
        """A node's zero points; 0 where it gives none."""
        given = len(node.input) > 2 and node.input[2]
        return self.value(node.input[2]).astype(np.int64) if given else np.zeros((), np.int64)

    def finish(self) -> None:
        """Put the new nodes in the place of the old, and drop constants that nothing reads now."""
        graph = self.model.graph
        before = [_copy(node) for node in graph.node]
        nodes = [made for node in before for made in self.instead.get(_label(node), (node,))]
        del graph.node[:]
        graph.node.extend(nodes)
        read = {name for body in nested(graph) for node in body.node for name in node.input}
        read |= {name.name for body in nested(graph) for name in body.output}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _copy(node: NodeProto) -> NodeProto:
    made = type(node)()
    made.CopyFrom(node)
    return made


def _label(node: NodeProto) -> str:
    return str(next(iter(node.output), ""))


def _name(node: NodeProto) -> str:
    return str(node.name or _label(node))


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next(
        (int(attribute.i) for attribute in node.attribute if attribute.name == name), default
    )


class _Constants(_Graph):
    """Constants that are dequantised."""

    def rewrite(self) -> list[str]:
        """Rewrite them; the nodes of those that keep no form in integers."""
        widened = []
        for node in self.model.graph.node:
            if op_of(node) != "DequantizeLinear" or not self._is_known(node):
                continue
            kind, zero = self.stored[node.input[0]].data_type, self.zero(node)
            if kind not in _CONSTANT or (kind in (INT8, _INT4) and not zero.any()):
                continue
            if kind == UINT8 and (zero == _MIDDLE).all():
                self._shift(node, zero)
                continue
            self.constant(node.output[0], self._evaluated(node))
            self.instead[_label(node)] = []
            if kind != _INT32:
                widened.append(_name(node))
        self.finish()
        return widened

    def _is_known(self, node: NodeProto) -> bool:
        return all(name in self.stored for name in node.input if name)

    def _shift(self, node: NodeProto, zero: Array) -> None:
        data = node.input[0]
        shifted = (self.value(data).astype(np.int16) - _MIDDLE).astype(np.int8)
        node.input[0] = self.constant(f"{data}/int8", shifted)
        node.input[2] = self.constant(f"{node.input[2]}/int8", np.zeros(zero.shape, np.int8))

    def _evaluated(self, node: NodeProto) -> Array:
        from onnx import helper

        inputs = [self.stored[name] for name in dict.fromkeys(node.input) if name]
        output = helper.make_empty_tensor_value_info(node.output[0])
        graph = helper.make_graph([node], "constant", [], [output], inputs)
        opsets, version = self.model.opset_import, self.model.ir_version
        alone = helper.make_model(graph, opset_imports=opsets, ir_version=version)
        return run(alone.SerializeToString())[0]


@dataclass
class _Group:
    """Tensors of integers that hand their values on to one another, with what makes and reads them.

    Attributes:
        tensors: by name.
        pairs: the QuantizeLinear and DequantizeLinear nodes around them.
    """

    tensors: set[str] = field(default_factory=set)
    pairs: dict[str, NodeProto] = field(default_factory=dict)


class _Activations(_Graph):
    """Tensors that are quantised when the model runs."""

    def __init__(self, model: ModelProto, sizes: Sizes) -> None:
        super().__init__(model)
        self.sizes = sizes
        self.ends = {value.name for value in model.graph.output}
        self.makers = {name: node for node in model.graph.node for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)

    def rewrite(self) -> list[str]:
        """Rewrite them; the QuantizeLinear nodes that become float arithmetic."""
        rounded, seen = [], set[str]()
        for node in self.model.graph.node:
            if op_of(node) != "QuantizeLinear" or node.output[0] in seen:
                continue
            group = self._group(node.output[0])
            if group is None:
                continue
            seen |= group.tensors
            zeros = {int(z) for pair in group.pairs.values() for z in self.zero(pair).flat}
            kinds = {self._kind(pair) for pair in group.pairs.values()}
            if kinds == {UINT8} and zeros == {_MIDDLE}:
                self._shift(group)
            elif kinds != {INT8} or zeros != {0}:
                self._widen(group)
                rounded += [
                    _name(pair) for pair in group.pairs.values() if op_of(pair) == "QuantizeLinear"
                ]
        self.finish()
        return rounded

    def _group(self, start: str) -> _Group | None:
        """The group of a tensor; None where it has a node of another form in it."""
        group, waiting = _Group(), [start]
        while waiting:
            tensor = waiting.pop()
            if tensor in group.tensors:
                continue
            group.tensors.add(tensor)
            maker = self.makers.get(tensor)
            if maker is None or tensor in self.ends:
                return None
            for node in (maker, *self.readers[tensor]):
                if op_of(node) in ("QuantizeLinear", "DequantizeLinear"):
                    if not self._has_form(node, tensor):
                        return None
                    group.pairs[_label(node)] = node
                elif op_of(node) in _MOVING:
                    around = (*node.input, *node.output)
                    waiting += [n for n in around if self.sizes.types.get(n) in _LIMITS]
                else:
                    return None
        return group

    def _has_form(self, node: NodeProto, tensor: str) -> bool:
        """Whether a node has constant parameters, of a kind and in a shape that can be written."""
        if tensor not in (node.output[0], node.input[0]) or node.domain:
            return False
        if any(name and name not in self.stored for name in node.input[1:]):
            return False
        scale = self.stored[node.input[1]]
        known = np.prod(scale.dims) == 1 or (
            len(scale.dims) == 1 and node.input[0] in self.sizes.shapes
        )
        return (
            bool(known)
            and scale.data_type == _FLOAT
            and self._kind(node) in _LIMITS
            and self.sizes.types.get(node.input[0], _FLOAT) in (_FLOAT, *_LIMITS)
            and _attribute(node, "output_dtype", 0) in (0, _FLOAT, *_LIMITS)
            and not _attribute(node, "block_size", 0)
        )

    def _kind(self, node: NodeProto) -> int:
        integers = node.output[0] if op_of(node) == "QuantizeLinear" else node.input[0]
        return self.sizes.types.get(integers, 0)

    def _shift(self, group: _Group) -> None:
        for node in group.pairs.values():
            zero = node.input[2]
            shape = self.stored[zero].dims
            node.input[2] = self.constant(f"{zero}/int8", np.zeros(shape, np.int8))
            for attribute in node.attribute:
                if attribute.name == "output_dtype" and attribute.i == UINT8:
                    attribute.i = INT8

    def _widen(self, group: _Group) -> None:
        for label, node in group.pairs.items():
            chain = self._rounding if op_of(node) == "QuantizeLinear" else self._scaling
            self.instead[label] = list(_chained(node, chain(node)))

    def _rounding(self, node: NodeProto) -> Iterator[tuple[str, tuple[str, ...]]]:
        low, high = _LIMITS[self._kind(node)]
        yield "Div", (self._parameter(node, "scale"),)
        yield "Round", ()
        if self.zero(node).any():
            yield "Add", (self._parameter(node, "zero"),)
        yield "Clip", tuple(self.constant(f"rtc/{v}", np.array(v, np.float32)) for v in (low, high))

    def _scaling(self, node: NodeProto) -> Iterator[tuple[str, tuple[str, ...]]]:
        if self.zero(node).any():
            yield "Sub", (self._parameter(node, "zero"),)
        yield "Mul", (self._parameter(node, "scale"),)

    def _parameter(self, node: NodeProto, which: str) -> str:
        """A float constant with a node's scales or zero points, of a shape that goes with data."""
        value = self.value(node.input[1]) if which == "scale" else self.zero(node)
        shape: list[int] = []
        if value.size > 1:
            shape = [1] * len(self.sizes.shapes[node.input[0]])
            shape[_attribute(node, "axis", 1)] = -1
        return self.constant(f"{_label(node)}/{which}", value.astype(np.float32).reshape(shape))


def _chained(node: NodeProto, steps: Iterable[tuple[str, tuple[str, ...]]]) -> Iterator[NodeProto]:
    """Nodes that apply operators in turn to what a node reads, and make what it makes."""
    from onnx import helper

    steps, tensor = list(steps), node.input[0]
    for place, (op, others) in enumerate(steps, start=1):
        name = f"{_name(node)}/{op.lower()}"
        made = node.output[0] if place == len(steps) else name
        yield helper.make_node(op, [tensor, *others], [made], name=name)
        tensor = made
