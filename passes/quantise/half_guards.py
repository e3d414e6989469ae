"""Constants that keep zero away from a divisor or a logarithm, where a half type holds them as 0.

    x / max(|x|, 1e-12)        √(v + 1e-12)        x / where(v = 0, 1e-12, v)

Samples seldom show what happens without: what reads the constant is computed here of zeros, once
with the constant as it is and once as the half type has it, and so on from node to node. If that
ends in inf or NaN where the first does not, all that handles the guarded value stays float, for as
long as the half type cannot hold it. So it does where a node on the way cannot be computed here. A
bias of 1e-9, which nothing divides by, is no guard.

Tensors have the sizes of a real batch. Zero are the numbers that come of samples; sizes, indices
and what is made of them are what the batch shows, and a condition is tried both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rtc.calibration.oracle import evaluate
from rtc.calibration.seen_sizes import seen_sizes
from rtc.compiler.core.arrays import Array
from rtc.passes.quantise.half import LARGEST, half_dtype, is_lost, peak_of
from rtc.passes.support.onnx_graph import carrying, dtype_of, is_constant

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

_FLOAT, _BOOL = np.dtype(np.float32), np.dtype(np.bool_)
_DEPTH = 12  # nodes from a constant to what it guards
_CONDITIONS = (
    6  # that are tried both ways; where more lie on the way, it is a guard for all we know
)


def lost_constants(node: gs.Node, half: str) -> list[gs.Constant]:
    """The constants that a node reads and that are too small for a half type."""
    floats = [
        tensor for tensor in node.inputs if is_constant(tensor) and dtype_of(tensor) == _FLOAT
    ]
    return [e for e in floats if peak_of(e.values) < LARGEST[half] and is_lost(e.values, half)]


def guarding(
    graph: gs.Graph, proto: bytes, inputs: Array, names: AbstractSet[str], half: str
) -> dict[str, str]:
    """Why nodes stay float for a guard to hold, by name.

    Args:
        graph: the float model.
        proto: the same as ONNX has it.
        inputs: a batch of the model's input.
        names: of the nodes that compute floats.
        half: "fp16" or "bf16".
    """
    lost = {
        place: constants[0]
        for place, node in enumerate(graph.nodes)
        if node.name in names and (constants := lost_constants(node, half))
    }
    if not lost:
        return {}
    walk = _walk(graph, proto, inputs, half)
    reasons: dict[str, str] = {}
    for place, constant in lost.items():
        steps = list(walk.steps(place, {}))
        if not any(step.breaks for step in steps):
            continue
        name, least = graph.nodes[place].name, peak_of(constant.values)
        reasons[name] = f"its {least:.3g} guards against zero, and is lost in {half}"
        reason = f"it reads what {least:.3g} in {name} guards, which is lost in {half}"
        handling = {n for step in steps if step.lost_in(half) for n in step.handling} & names
        reasons |= dict.fromkeys(handling - reasons.keys(), reason)
    return reasons


@dataclass(frozen=True)
class _Step:
    """What a node gives of the constant and of the constant in half; None where nobody knows."""

    node: gs.Node
    tensor: gs.Tensor
    wanted: Array | None
    got: Array | None

    @property
    def breaks(self) -> bool:
        if self.wanted is None or self.got is None:
            return True
        return bool(np.isfinite(self.wanted).all() and not np.isfinite(self.got).all())

    def lost_in(self, half: str) -> bool:
        """Whether a half type does not hold it."""
        wanted = self.wanted
        return wanted is not None and wanted.dtype == _FLOAT and is_lost(wanted, half)

    @property
    def handling(self) -> tuple[str, ...]:
        """Names of the nodes that make and read the tensor."""
        return (self.node.name, *(tensor.name for tensor in self.tensor.outputs))

    def leads_on(self, half: str) -> bool:
        """Whether it matters to readers that the constant is lost."""
        if self.wanted is None or self.got is None:
            return False
        if self.breaks:
            return self.lost_in(half)
        return not np.allclose(self.wanted, self.got, rtol=0.1, atol=0.0, equal_nan=True)


_Pairs = Mapping[str, tuple[Array, Array, int]]
"""What tensors are with the constant and with the constant in half, and how far they are off."""


@dataclass(frozen=True)
class _Walk:
    """From a constant on, in the graph's order, through all that it reaches.

    Attributes:
        nodes: of the graph, in order.
        model: without nodes, of the graph's version and operator sets.
        values: what a tensor is that the constant does not reach, by name.
        conditions: names of the tensors among them that may as well be the contrary.
    """

    nodes: Sequence[gs.Node]
    model: onnx.ModelProto
    values: Mapping[str, Array]
    conditions: frozenset[str]
    half: str

    def steps(self, place: int, pairs: _Pairs, answered: int = 0) -> Iterator[_Step]:
        """What the node at `place` gives, and all that read it, for each answer to a condition."""
        known = dict(pairs)
        for index in range(place, len(self.nodes)):
            node = self.nodes[index]
            depths = [known[tensor.name][2] for tensor in node.inputs if tensor.name in known]
            if index != place and not depths:
                continue
            open_ = [e.name for e in node.inputs if e.name in self.conditions - known.keys()]
            if open_ and answered < _CONDITIONS:
                for answer in (False, True):
                    yield from self._told(open_[0], answer).steps(index, known, answered + 1)
                return
            depth = min(depths, default=0) + 1
            for step in self._given(node, known, doubtful=bool(open_)):
                yield step
                if depth <= _DEPTH and step.leads_on(self.half):
                    assert step.wanted is not None
                    assert step.got is not None
                    known[step.tensor.name] = step.wanted, step.got, depth

    def _told(self, condition: str, answer: bool) -> _Walk:
        values = {**self.values, condition: np.full_like(self.values[condition], answer)}
        return replace(self, values=values, conditions=self.conditions - {condition})

    def _given(self, node: gs.Node, pairs: _Pairs, *, doubtful: bool) -> list[_Step]:
        outputs = [tensor for tensor in node.outputs if tensor.name]
        wanted, got = (None if doubtful else self._of(node, pairs, side) for side in (0, 1))
        if wanted is None or got is None:
            return [_Step(node, output, None, None) for output in outputs]
        steps = zip(outputs, wanted, got, strict=True)
        return [_Step(node, each, right, self._rounded(left)) for each, right, left in steps]

    def _of(self, node: gs.Node, pairs: _Pairs, side: int) -> list[Array] | None:
        """What a node gives with the constant (side 0) or in half (1); None where it cannot."""
        import onnx
        from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

        given = {e.name: self._read(e, pairs, side) for e in node.inputs if e.name}
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        model.graph.node.append(OnnxExporter.export_node(node))
        model.graph.output.extend(
            onnx.helper.make_empty_tensor_value_info(e.name) for e in node.outputs if e.name
        )
        for name, values in given.items():
            if values is None:
                return None
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        try:
            return evaluate(model.SerializeToString())
        except Exception:  # noqa: BLE001 - ORT raises a dozen unrelated classes
            return None

    def _read(self, tensor: gs.Tensor, pairs: _Pairs, side: int) -> Array | None:
        if is_constant(tensor):
            values = np.asarray(tensor.values)
            return self._rounded(values) if side else values
        if tensor.name in pairs:
            wanted, got, _ = pairs[tensor.name]
            return got if side else wanted
        return self.values.get(tensor.name)

    def _rounded(self, values: Array) -> Array:
        if values.dtype != _FLOAT:
            return values
        with np.errstate(over="ignore"):
            return values.astype(half_dtype(self.half)).astype(np.float32)


def _walk(graph: gs.Graph, proto: bytes, inputs: Array, half: str) -> _Walk:
    import onnx

    known = onnx.load_model_from_string(proto)
    model = onnx.ModelProto(ir_version=known.ir_version, opset_import=known.opset_import)
    model.graph.name = "node"
    carried = carrying(graph)
    tensors = [(node.name in carried, t) for node in graph.nodes for t in node.outputs if t.name]
    kinds = {t.name: dtype_of(t) for sampled, t in tensors if sampled}
    free = {name: kind for name, kind in kinds.items() if kind is not None and kind.kind in "fb"}
    shown = [t.name for _, t in tensors if t.name not in free]
    sizes, values = seen_sizes(proto, inputs, free, shown)
    values |= {name: np.zeros(sizes[name], kind) for name, kind in free.items()}
    values |= {tensor.name: np.zeros_like(inputs) for tensor in graph.inputs}
    conditions = frozenset(name for name, kind in free.items() if kind == _BOOL)
    return _Walk(graph.nodes, model, values, conditions, half)
