"""Products of a graph whose operands may be 8-bit integers, and which integers: by evaluating.

What a runtime multiplies as integers is written in many ways: stored as 8 bits and dequantised,
quantised from floats, through Transpose, Reshape, Cast or any other chain of constants, in
operators that quantise within, on either side of a product, and between two activations. So nothing
here matches weights by the nodes around them. What a constant operand is computed from is evaluated
as it is stored and less its zero point, and so is the order in which the product reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.operators import CARRYING, SCALING, WEIGHTED, op_of
from rtc.compiler.core.running import unoptimised
from rtc.compiler.core.tensors import types_of
from rtc.targets.backends.dequantised import (
    MOST_NUMBERED,
    as_stored,
    in_a_row,
    numbered,
    numbers,
    places,
    without_scale,
)

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_MS = "com.microsoft"
UINT8, INT8 = 2, 3  # onnx.TensorProto's numbers
_FLOATS = frozenset({1, 10, 11, 16})
_FLOAT_PRODUCTS = WEIGHTED | {"Einsum"}
_CHANGING = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
    | {"RandomUniformLike"}
)

_Roles = tuple[int, int, int, int]
_INTEGER_PRODUCTS: Mapping[str, tuple[_Roles, ...]] = {
    # which inputs are multiplied, and the zero points of both; -1 where there is no such input
    "ConvInteger": ((0, 1, 2, 3), (1, 0, 3, 2)),  # ONNX Runtime multiplies weights by data
    "MatMulInteger": ((0, 1, 2, 3),),
    "QLinearConv": ((0, 3, 2, 5),),
    "QLinearMatMul": ((0, 3, 2, 5),),
    f"{_MS}.DynamicQuantizeLSTM": ((-1, 1, -1, 9), (-1, 2, -1, 11)),
    f"{_MS}.DynamicQuantizeMatMul": ((-1, 1, -1, 3),),
    f"{_MS}.MatMulIntegerToFloat": ((0, 1, 4, 5),),
    f"{_MS}.QAttention": ((0, 1, 6, 7),),
    f"{_MS}.QGemm": ((0, 3, 2, 5),),
    f"{_MS}.QLinearConv": ((0, 3, 2, 5),),
}


@dataclass(frozen=True)
class Integers:
    """8-bit integers of one operand.

    Attributes:
        kinds: their element types; 0 for one that is not known.
        stored: as they are stored, int16, in the operand's shape; None where they are known only
            when the model runs.
        centred: the same, less their zero points.
        in_order: whether the operand holds them as they are. Where it computes with them, they are
            in no order.
    """

    kinds: frozenset[int]
    stored: Array | None = None
    centred: Array | None = None
    in_order: bool = True


@dataclass(frozen=True)
class Product:
    """Two operands that are multiplied; None for one that is float.

    Attributes:
        node: the operator.
        name: its name, or that of its output.
        integer: whether the operator itself is one on integers.
    """

    node: NodeProto
    name: str
    first: Integers | None
    second: Integers | None
    integer: bool


def products(model: ModelProto) -> Iterator[Product]:
    """Every product of a model, in any graph inside it."""
    from onnx import inliner

    if model.functions:
        model = inliner.inline_local_functions(model)
    types = {name: tensor.kind for name, tensor in types_of(model, trusting=True).items()}
    yield from _Scope(model, types).products(model.graph)


@dataclass
class _Scope:
    """What a graph sees: its own tensors, and those of the graphs around it.

    Attributes:
        makers: by tensor, the node that makes it and how many tensors were made before.
        stored: initialisers by name.
        constant: tensors that are the same in every run.
        behind: of the others, the types of integers that they may still be where they are
            multiplied.
    """

    model: ModelProto
    types: Mapping[str, int]
    makers: dict[str, tuple[int, NodeProto]] = field(default_factory=dict)
    stored: dict[str, TensorProto] = field(default_factory=dict)
    constant: set[str] = field(default_factory=set)
    behind: dict[str, frozenset[int]] = field(default_factory=dict)

    def products(self, graph: GraphProto) -> Iterator[Product]:
        """Those of a graph in this scope, which it joins."""
        self.stored |= {tensor.name: tensor for tensor in graph.initializer}
        self.constant |= self.stored.keys()
        for node in graph.node:  # in order: what a node reads is known
            self._join(node)
            yield from self._of(node)
            for inner in _inner(node):
                scope = self._inside()
                yield from scope.products(inner)
                self._take_out(node, inner, scope)

    def _join(self, node: NodeProto) -> None:
        self.makers |= dict.fromkeys(node.output, (len(self.makers), node))
        if _is_fixed(node) and self.constant.issuperset(filter(None, node.input)):
            self.constant.update(node.output)
        elif kinds := self._kinds(node):
            self.behind |= dict.fromkeys(node.output, kinds)

    def _inside(self) -> _Scope:
        copies = dict(self.makers), dict(self.stored), set(self.constant), dict(self.behind)
        return _Scope(self.model, self.types, *copies)

    def _take_out(self, node: NodeProto, inner: GraphProto, scope: _Scope) -> None:
        """What a node gives of a graph inside it may be the integers that it is there.

        From the end, because the body of a Loop gives one more before them: whether to go on.
        """
        for made, given in zip(reversed(node.output), reversed(inner.output), strict=False):
            kinds = scope._may_be(given.name)
            if kinds:
                self.behind[made] = self.behind.get(made, frozenset()) | kinds

    def _may_be(self, tensor: str) -> frozenset[int]:
        """The types of integers that a float tensor may still be."""
        if tensor in self.constant:
            return frozenset(map(self._kind_read, self._leaving(tensor).values()))
        return self.behind.get(tensor, frozenset())

    def _of(self, node: NodeProto) -> Iterator[Product]:
        name = node.name or node.output[0]
        for first, second, first_zero, second_zero in _INTEGER_PRODUCTS.get(op_of(node), ()):
            a, b = (
                self._quantised(node, first, first_zero),
                self._quantised(node, second, second_zero),
            )
            yield Product(node, name, a, b, integer=True)
        if op_of(node) in _FLOAT_PRODUCTS:
            operands = node.input if op_of(node) == "Einsum" else node.input[:2]
            dequantised = [self._dequantised(tensor) for tensor in operands]
            for one, other in pairwise(dequantised):
                yield Product(node, name, one, other, integer=False)

    def _quantised(self, node: NodeProto, index: int, zero: int) -> Integers:
        """An operand of an operator on integers."""
        if index < 0:
            return Integers(frozenset({UINT8}))  # quantised inside
        tensor = node.input[index]
        zero_name = node.input[zero] if zero < len(node.input) else ""
        kind = self.types.get(tensor) or self.types.get(zero_name) or 0
        if tensor not in self.constant:
            return Integers(frozenset({kind}))
        try:
            known = self._evaluate({tensor, zero_name} - {""}, {})
        except Exception:  # noqa: BLE001 - the runtime's errors have no common public class
            return _any_of(frozenset({kind}))
        stored, zeros = known[tensor].astype(np.int16), known.get(zero_name, np.zeros(()))
        if zeros.ndim == 1 and zeros.size > 1 and _by_row(node, index):
            zeros = zeros.reshape(-1, *[1] * (stored.ndim - 1))
        kind = UINT8 if known[tensor].dtype == np.uint8 else INT8
        return Integers(frozenset({kind}), stored, stored - zeros.astype(np.int16))

    def _dequantised(self, tensor: str) -> Integers | None:
        """What a float operand is dequantised from, if anything."""
        if tensor not in self.constant:
            kinds = self.behind.get(tensor)
            return Integers(kinds) if kinds else None
        leaving = self._leaving(tensor)
        if not leaving:
            return None
        kinds = frozenset(map(self._kind_read, leaving.values()))
        try:
            held = self._evaluate(leaving.keys(), as_stored(leaving))
            centred = self._evaluate(leaving.keys(), without_scale(leaving))
            order = self._order(tensor, leaving, held)
        except Exception:  # noqa: BLE001 - the runtime's errors have no common public class
            return _any_of(kinds)
        flat, less_zero = in_a_row(held), in_a_row(centred)
        if order is None:
            return Integers(kinds, flat[:-1], less_zero[:-1], in_order=False)
        return Integers(kinds, flat[order], less_zero[order])

    def _order(
        self, tensor: str, leaving: Mapping[str, NodeProto], held: Mapping[str, Array]
    ) -> Array | None:
        """Where each element of a constant is among the integers in a row; None if they are mixed.

        The integers are numbered, with either sign: only what moves them leaves the numbers alone.
        """
        count = sum(each.size for each in held.values())
        if tensor in leaving:
            return np.arange(count).reshape(held[tensor].shape)
        if count > MOST_NUMBERED:
            return None
        given = numbers(count)
        order, negated = (
            self._evaluate({tensor}, numbered(held, each))[tensor] for each in (given, -given)
        )
        return places(order, given) if np.array_equal(order, -negated) else None

    def _leaves_integers(self, node: NodeProto) -> bool:
        """Whether a node makes floats of 8-bit integers."""
        kind = self._kind_read(node)
        if op_of(node) == "DequantizeLinear":
            return kind in (0, INT8, UINT8)
        return kind in (INT8, UINT8) and self.types.get(node.output[0]) in _FLOATS

    def _kind_read(self, node: NodeProto) -> int:
        """The element type of what a node reads, or of its zero point; 0 where it is not known."""
        return next((kind for name in node.input[::2] if (kind := self.types.get(name))), 0)

    def _kinds(self, node: NodeProto) -> frozenset[int]:
        """The types of integers that what a node makes may still be."""
        if self._leaves_integers(node):
            return frozenset({self._kind_read(node)})
        varying = [name for name in node.input if name and name not in self.constant]
        if op_of(node) in CARRYING or (op_of(node) in SCALING and len(varying) == 1):
            return frozenset().union(*(self.behind.get(name, ()) for name in varying))
        return frozenset()

    def _leaving(self, tensor: str) -> dict[str, NodeProto]:
        """The last nodes before a constant, by output, that make floats of integers."""
        nodes = self._before((tensor,), self._leaves_integers)
        return {
            name: node for node in nodes if self._leaves_integers(node) for name in node.output[:1]
        }

    def _before(
        self, tensors: Iterable[str], ends: Callable[[NodeProto], bool] = lambda _: False
    ) -> list[NodeProto]:
        """The nodes that constants are computed by, in order, back to those that end the way."""
        nodes: dict[int, NodeProto] = {}
        waiting = list(tensors)
        while waiting:
            tensor = waiting.pop()
            if tensor in self.stored or tensor not in self.makers:
                continue
            place, node = self.makers[tensor]
            if place not in nodes:
                nodes[place] = node
                waiting += () if ends(node) else node.input
        return [nodes[place] for place in sorted(nodes)]

    def _evaluate(
        self, wanted: Set[str], instead: Mapping[str, Sequence[NodeProto]]
    ) -> dict[str, Array]:
        """The values of constants, with other nodes in the place of some, by their output."""
        import onnx

        outputs = sorted(wanted)
        nodes = [
            made for node in self._before(outputs) for made in instead.get(node.output[0], (node,))
        ]
        read = {name for node in nodes for name in node.input} | wanted
        graph = onnx.helper.make_graph(
            [*nodes, *(onnx.helper.make_node("Identity", [n], [f"{n}/value"]) for n in outputs)],
            "constants",
            [],
            [onnx.helper.make_empty_tensor_value_info(f"{name}/value") for name in outputs],
            [self.stored[name] for name in sorted(read) if name in self.stored],
        )
        model = onnx.helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )
        return dict(zip(outputs, run(model.SerializeToString()), strict=True))


def _inner(node: NodeProto) -> list[GraphProto]:
    """The graphs that a node holds."""
    held = [
        attribute for attribute in node.attribute if attribute.HasField("g") or attribute.graphs
    ]
    return [g for each in held for g in ([each.g] if each.HasField("g") else each.graphs)]


def _any_of(kinds: frozenset[int]) -> Integers:
    """Constants that could not be evaluated: any number, in any order."""
    ends = np.array([-255, 255], np.int16)
    return Integers(kinds, ends, ends, in_order=False)


def _is_fixed(node: NodeProto) -> bool:
    """Whether a node gives the same for the same, and needs no graph of its own."""
    return op_of(node) not in _CHANGING and not _inner(node)


def run(model: bytes) -> list[Array]:
    """The outputs of a model without inputs, computed as it stands."""
    values: list[Array] = unoptimised(model).run(None, {})
    return values


def _by_row(node: NodeProto, index: int) -> bool:
    """Whether zero points of an operand go along its first axis, and not along its last.

    They do for the filters of a convolution (ONNX ConvInteger), for the rows of the first factor
    of a product (ONNX MatMulInteger), and for a second one that is transposed (ORT's QGemm).
    """
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return "Conv" in op_of(node) or index == 0 or transposed
