"""Which nodes a half type breaks, by what the reference shows on samples.

Two looks, both tensor by tensor beside the float model, each result rounded as a device rounds it:

1. each node alone, given what the float model gives it: y' = half(Op(half(x))),
2. all nodes together, in the graph as `cast-precision` writes it.

A node stays float where what it reads or gives is beyond the half type, or numbers become inf or
NaN. One that loses its output (`LEAST_DB` is not left, and what it read had `_DROP_DB` more) stays
float where the model's output is lost with it: what is computed of noise may well be noise. Where
that does not mend it, the nodes before it stay float too, until it is sound. All others stay half.

What no sample shows is told by constants: `half_guards`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rtc.calibration.decibels import LIMIT_DB
from rtc.calibration.half_twins import Beside, Seen, Twin
from rtc.compiler.core.data import filled
from rtc.compiler.core.operators import WEIGHTED, op_of
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.precision import LayerDecision, Precision, PrecisionPlan, Variant
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.cast_precision import CastPrecision
from rtc.passes.quantise.half import LARGEST, half_obstacle
from rtc.passes.quantise.half_guards import guarding, lost_constants
from rtc.passes.quantise.precision_policy import computing
from rtc.passes.support.layers import producer
from rtc.passes.support.onnx_graph import dtype_of, is_constant, moves, read, write

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

LEAST_DB = 20.0  # the rules ask as much of INT8
_DROP_DB = 10.0
_GAIN_DB = 3.0
_PATIENCE = 3  # times that the nodes before one stay float and it gains nothing
_ROUNDS = 40
_FLOAT = np.dtype(np.float32)
_OF_SIZES = frozenset({"Shape", "Size"})  # what they give is none of the values

Reasons = Mapping[str, str]
"""Why a node stays float, by its name."""


def half_losses(unit: Unit, ctx: PassContext) -> Reasons:
    """The nodes of a float model that the target's half type breaks, each with what shows it.

    What a node's operator or the size of its constants tell (`half_obstacle`) is not among them.
    """
    half = ctx.where().scheme.half
    if half is None:
        return {}
    losses = _Losses(unit, ctx, half)
    losses.look_alone()
    losses.look_together()
    return {name: losses.floats[name] for name in losses.nodes if losses.floats.get(name)}


class _Losses:
    """Collects what has to stay float.

    Attributes:
        nodes: all that compute floats, by name, in order.
        floats: why a node stays float, by name; "" where its constants or its operator tell.
        lossy: what might have to, if it turns out to matter.
    """

    def __init__(self, unit: Unit, ctx: PassContext, half: str) -> None:
        self.graph = read(unit).cleanup()
        self.unit = write(self.graph, unit)
        self.ctx, self.half, self.limit = ctx, half, LARGEST[half]
        names = frozenset(computing(self.graph))
        self.nodes = {node.name: node for node in self.graph.nodes if node.name in names}
        first = unit.signature.inputs[0].shape[0]
        batch = first if isinstance(first, int) else 1
        proto, samples = self.unit.onnx.proto, ctx.calibration()
        self.beside = Beside(proto, samples, batch)
        some = filled(samples.inputs(0, batch), batch)
        self.floats = guarding(self.graph, proto, some, names, half)
        opset = self.graph.opset
        obstacles = [n for n, node in self.nodes.items() if half_obstacle(node, opset, half)]
        self.floats |= dict.fromkeys(obstacles, "")
        self.lossy: set[str] = set()

    # Each node alone

    def look_alone(self) -> None:
        peaks: dict[str, float] = {}
        waiting = set(self.nodes)
        while waiting:
            twins = {name: self._twin(self.nodes[name]) for name in self.nodes if name in waiting}
            seen = self.beside.alone(twins, self.half)
            peaks |= {name: each.peak for name, each in seen.items()}
            waiting = {follower for name in twins for follower in self._judged(name, seen, peaks)}

    def _twin(self, node: gs.Node) -> Twin:
        half = node.name not in self.floats
        rounds = [each for each in _reads(node) if half or self._stored_half(each)]
        rounds += lost_constants(node, self.half) if half else []
        return Twin(frozenset(each.name for each in rounds), half)

    def _stored_half(self, tensor: gs.Tensor) -> bool:
        maker = producer(_moved(tensor))
        return maker is not None and maker.name in self.nodes and maker.name not in self.floats

    def _judged(self, name: str, seen: Mapping[str, Seen], peaks: Mapping[str, float]) -> set[str]:
        """The nodes to look at again for what is seen of one."""
        node = self.nodes[name]
        if name not in self.floats and (why := self._beyond(node, peaks)):
            return self._keep([name], why)
        outputs = [seen[tensor.name] for tensor in node.outputs if tensor.name in seen]
        broken = next((output.broken for output in outputs if output.broken), "")
        if broken:
            more = self._widen(name, f"makes {broken} of")
            return more | {name} if more else more
        if any(output.snr_db < LEAST_DB for output in outputs):
            self.lossy.add(name)
        return set()

    def _beyond(self, node: gs.Node, peaks: Mapping[str, float]) -> str:
        for does, tensors in (("reads", _reads(node)), ("gives", node.outputs)):
            peak = max((peaks.get(_moved(tensor).name, 0.0) for tensor in tensors), default=0.0)
            if peak > self.limit:
                return (
                    f"it {does} values of up to {peak:.3g}, and {self.half} ends at {self.limit:g}"
                )
        return ""

    # What stays float

    def _widen(self, name: str, why: str) -> set[str]:
        """Keep a node float or, where it is, those before it; what is float now and was not."""
        if name not in self.floats:
            return self._keep([name], f"{self.half} {why} it")
        return self._keep(
            self._before(self.nodes[name]), f"{self.half} {why} {name}, which reads it"
        )

    def _keep(self, names: Iterable[str], why: str) -> set[str]:
        new = {name for name in names if name not in self.floats}
        self.floats |= dict.fromkeys(new, why)
        return new

    def _before(self, node: gs.Node) -> set[str]:
        """The nodes in half whose outputs a float node reads, perhaps through float ones.

        Of values that become integers on the way (an index, a condition) all nodes back to a layer
        with weights: any of them alone in half makes another integer.
        """
        names, waiting, known = set(), [(node, False)], {id(node)}
        while waiting:
            reader, counts = waiting.pop()
            for tensor in (tensor for tensor in reader.inputs if not is_constant(tensor)):
                maker = producer(_moved(tensor))
                if maker is None or id(maker) in known or op_of(maker) in _OF_SIZES:
                    continue
                known.add(id(maker))
                whole = counts or not _is_float(tensor)
                new = maker.name in self.nodes and maker.name not in self.floats
                if new:
                    names.add(maker.name)
                if not new or (whole and op_of(maker) not in WEIGHTED):
                    waiting.append((maker, whole))
        return names

    # All nodes together

    def look_together(self) -> None:
        tensors = [t.name for node in self.nodes.values() for t in node.outputs if _is_float(t)]
        tried: dict[str, list[float]] = defaultdict(list)
        kept: dict[str, set[str]] = defaultdict(set)
        for _ in range(_ROUNDS):
            seen = self.beside.together(self._written(), tensors)
            new: set[str] = set()
            for name, why, snr_db in list(self._culprits(seen)):
                tried[name].append(snr_db)
                if _in_vain(tried[name]):
                    self.floats = {n: w for n, w in self.floats.items() if n not in kept[name]}
                    kept[name].clear()
                    continue
                more = self._widen(name, why)
                kept[name] |= more
                new |= more
            if not new:
                return

    def _written(self) -> bytes:
        fp32 = LayerDecision(Precision.FP32, "")
        plan = PrecisionPlan(
            model="",
            target="",
            variant=Variant.HALF,
            default=Precision.HALF,
            layers=dict.fromkeys(self.floats, fp32),
        )
        changed = CastPrecision().apply(self.unit, replace(self.ctx, plan=plan, reference=None))
        return changed.unit.onnx.proto

    def _culprits(self, seen: Mapping[str, Seen]) -> Iterator[tuple[str, str, float]]:
        """Nodes that lose what they give and not what they read, what becomes of it, and how much.

        Of those that only lose, the ones with which the model's output is lost.
        """
        lost = {name for name, each in seen.items() if each.broken or each.snr_db < LEAST_DB}
        matter = self._leading_out(lost)
        for name, node in self.nodes.items():
            given = [seen[tensor.name] for tensor in node.outputs if tensor.name in lost]
            read = [seen[t.name] for t in map(_moved, _reads(node)) if t.name in seen]
            if broken := next((name.broken for name in given if name.broken), ""):
                if not any(each.broken for each in read):
                    yield name, f"makes {broken} of", -LIMIT_DB
            elif given and name in matter:
                left = min(name.snr_db for name in given)
                drop = min((each.snr_db for each in read), default=LIMIT_DB) - left
                if drop >= _DROP_DB or (name in self.lossy and name not in self.floats):
                    yield name, f"leaves {left:.1f} dB of", left

    def _leading_out(self, lost: set[str]) -> set[str]:
        """The nodes from which lost tensors lead to a lost output of the model."""
        waiting = [_moved(tensor) for tensor in self.graph.outputs]
        names: set[str] = set()
        while waiting:
            tensor = waiting.pop()
            maker = producer(tensor)
            if tensor.name in lost and maker is not None and maker.name not in names:
                names.add(maker.name)
                waiting += map(_moved, _reads(maker))
        return names


def _in_vain(snr_db: list[float]) -> bool:
    """Whether a node gained nothing by the last nodes before it that stayed float."""
    if len(snr_db) <= _PATIENCE or snr_db[-1] == -LIMIT_DB:
        return False
    return snr_db[-1] < snr_db[-1 - _PATIENCE] + _GAIN_DB


def _reads(node: gs.Node) -> list[gs.Tensor]:
    """The float tensors that a node reads, constants apart."""
    return [tensor for tensor in node.inputs if not is_constant(tensor) and _is_float(tensor)]


def _is_float(tensor: gs.Tensor) -> bool:
    return bool(tensor.name) and dtype_of(tensor) == _FLOAT


def _moved(tensor: gs.Tensor) -> gs.Tensor:
    """The tensor whose values these are, before they were moved."""
    maker = producer(tensor)
    while maker is not None and moves(maker):
        tensor = maker.inputs[0]
        maker = producer(tensor)
    return tensor
