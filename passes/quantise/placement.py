"""Where Q/DQ pairs go, given a plan and a target's scheme.

Rules (NVIDIA's for explicit quantisation, and ONNX Runtime's where it differs):

1. Every activation that an INT8 node reads is quantised; one pair serves all its INT8 readers.
2. Operators that commute with quantisation have the pair on both sides, with one scale.
3. `quantise_outputs`: the output of an INT8 node, after the activation fused into it, is quantised
   for every reader: ONNX Runtime fuses nothing else. The logits of a Gemm with a bias stay float:
   they would only be restored for the reader.
4. Of a residual Add, what its policy says is quantised (`ResidualPolicy`). The skip alone: the
   runtime fuses Add and activation into the convolution that ends the branch. With one scale for
   both branches, whatever else reads them has that scale too: a second pair costs a kernel.
5. `paired_products`: of two activations that are multiplied, only the last may come from integers.
   Unlike weights they leave no room for a sum in 16 bits, unless both are uint8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rtc.compiler.core.operators import CARRYING, SCALING, WEIGHTED, op_of
from rtc.compiler.core.precision import Precision, PrecisionPlan, ResidualPolicy
from rtc.compiler.core.target import QuantScheme
from rtc.passes.support.layers import (
    FUSED,
    activations,
    commutes,
    has_bias,
    origin,
    output_of,
    producer,
)
from rtc.passes.support.onnx_graph import is_constant, is_output
from rtc.passes.support.residuals import Residual, residuals

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(eq=False)
class Spot:
    """A tensor to quantise.

    Attributes:
        tensor: the tensor.
        range_of: name of the tensor whose observed range it takes.
        sharing: names of the tensors that have one scale with it, its own (`range_of`) included.
        readers: nodes that read the quantised values; None for all, and the graph's output too.
    """

    tensor: gs.Tensor
    range_of: str
    sharing: frozenset[str]
    readers: list[gs.Node] | None = field(default_factory=list)


class Spots:
    """Spots by tensor name, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.by_name: dict[str, Spot] = {}
        self._sharing: dict[str, frozenset[str]] = {}

    def add(self, tensor: gs.Tensor, reader: gs.Node | None) -> None:
        """Quantise `tensor` for one reader, or for all of them."""
        name = origin(tensor).name
        spot = self.by_name.setdefault(tensor.name, Spot(tensor, name, frozenset({name})))
        if reader is None:
            spot.readers = None
        elif spot.readers is not None and all(each is not reader for each in spot.readers):
            spot.readers.append(reader)

    def add_path(self, tensor: gs.Tensor, reader: gs.Node) -> None:
        """Quantise `tensor` for a reader, and before each commuting operator that leads to it."""
        self.add(tensor, reader)
        maker = producer(tensor)
        while maker is not None and commutes(maker):
            self.add(maker.inputs[0], maker)
            maker = producer(maker.inputs[0])

    def reads(self, tensor: gs.Tensor, reader: gs.Node) -> bool:
        """Whether a reader of a tensor reads its quantised values."""
        spot = self.by_name.get(tensor.name)
        return spot is not None and (
            spot.readers is None or any(each is reader for each in spot.readers)
        )

    def release(self, tensor: gs.Tensor, reader: gs.Node) -> None:
        """Let a reader read a tensor as it is."""
        if not self.reads(tensor, reader):
            return
        spot = self.by_name[tensor.name]
        readers = tensor.outputs if spot.readers is None else spot.readers
        spot.readers = [each for each in readers if each is not reader]
        if not spot.readers:
            del self.by_name[tensor.name]

    def share(self, tensors: Iterable[gs.Tensor]) -> None:
        """One scale for tensors, and for all that share one with any of them already."""
        names = frozenset(origin(tensor).name for tensor in tensors)
        together = names.union(*(self._sharing.get(name, ()) for name in names))
        self._sharing |= dict.fromkeys(together, together)

    def result(self) -> list[Spot]:
        """The spots that were collected, each with the range that it shares."""
        for spot in self.by_name.values():
            spot.sharing = self._sharing.get(spot.range_of, spot.sharing)
        return list(self.by_name.values())


def placement(graph: gs.Graph, plan: PrecisionPlan, scheme: QuantScheme) -> list[Spot]:
    """Every tensor to quantise."""
    spots, quantise_outputs = Spots(), scheme.quantise_outputs
    adds = {add.name: add for add in residuals(graph)}
    for node in graph.nodes:
        if node.name in adds:
            _join(spots, adds[node.name], plan.residual_of(node.name), both=quantise_outputs)
        elif op_of(node) in FUSED or plan.precision_of(node.name) is not Precision.INT8:
            continue
        elif not commutes(node):
            for tensor in activations(node):
                spots.add_path(tensor, node)
        if quantise_outputs and plan.precision_of(node.name) is Precision.INT8:
            result = output_of(graph, node)
            biased = op_of(node) == "Gemm" and has_bias(node)
            in_integers = scheme.bias == "int32" and biased  # also where it writes floats
            if not (in_integers and is_output(graph, result)):
                spots.add(result, None)
    if scheme.paired_products and scheme.activation != "uint8":  # two of which need no room
        _part_activations(spots, graph)
    return spots.result()


def _part_activations(spots: Spots, graph: gs.Graph) -> None:
    """Let no two activations that are multiplied both come from integers."""
    for node in graph.nodes:
        if op_of(node) not in WEIGHTED and op_of(node) != "Einsum":
            continue
        operands = node.inputs if op_of(node) == "Einsum" else node.inputs[:2]
        ways = [_ways_to(node, operand) for operand in operands if not is_constant(operand)]
        for way in [way for way in ways if any(spots.reads(*step) for step in way)][:-1]:
            for step in way:
                spots.release(*step)


def _ways_to(product: gs.Node, operand: gs.Tensor) -> list[tuple[gs.Tensor, gs.Node]]:
    """Tensors, each with its reader, through which integers may come to a product."""
    steps, seen = [(operand, product)], {id(product)}
    for tensor, _ in steps:  # which grow
        maker = producer(tensor)
        if maker is None or id(maker) in seen:
            continue
        seen.add(id(maker))
        varying = [tensor for tensor in maker.inputs if tensor.name and not is_constant(tensor)]
        if op_of(maker) in CARRYING or (op_of(maker) in SCALING and len(varying) == 1):
            steps += [(tensor, maker) for tensor in varying]
    return steps


def _join(spots: Spots, add: Residual, policy: ResidualPolicy, *, both: bool) -> None:
    """Quantise what an Add reads; `both`: the scheme's own policy quantises both branches."""
    if policy is ResidualPolicy.KEEP_HALF:
        return
    if policy is ResidualPolicy.RECALIBRATED:
        policy = ResidualPolicy.QUANTISE_BOTH if both else ResidualPolicy.QUANTISE_SKIP
    spots.add_path(add.skip, add.node)
    if policy is not ResidualPolicy.QUANTISE_SKIP:
        spots.add_path(add.branch, add.node)
    if policy is ResidualPolicy.SHARED_SCALE:
        spots.share((add.branch, add.skip))
