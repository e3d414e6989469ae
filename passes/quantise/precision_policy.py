"""How precision is decided: rules for each layer with weights, and what the rest follows.

The rules are those that runtimes' guides agree on: the first and the last layer and depthwise
convolutions lose most in INT8, narrow convolutions gain nothing, and everything else is quantised
where its signal-to-noise ratio allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rtc.compiler.core.operators import WEIGHTED, op_of
from rtc.compiler.core.precision import (
    LayerDecision,
    Precision,
    ResidualDecision,
    ResidualPolicy,
    Variant,
)
from rtc.compiler.core.target import QuantScheme
from rtc.passes.quantise.half import half_obstacle
from rtc.passes.support.layers import JOINS, Layer, commutes, is_first, is_last, output_of, producer
from rtc.passes.support.onnx_graph import carrying, dtype_of, is_constant, moves

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Decisions = dict[str, LayerDecision]

_NARROW = 16  # channels below which an INT8 convolution mostly does not pay
_IMAGE_CHANNELS = 4


@dataclass(frozen=True)
class Policy:
    """What decides: the candidate, the target's scheme, the least SNR in decibels for INT8.

    `half_losses`: why a node cannot be half, by name, as samples show it (see `half_loss`).
    `refused`: why one that was planned in INT8 was built wider, by name.
    """

    variant: Variant
    scheme: QuantScheme
    min_snr_db: float
    half_losses: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def default(self) -> Precision:
        """The float type of everything that is not quantised."""
        wants_half = self.variant in (Variant.HALF, Variant.MIX)
        return Precision.HALF if wants_half and self.scheme.half else Precision.FP32

    def float_type(self, wanted: Precision) -> Precision:
        """`wanted`, or FP32 where it is a half type and the target has none."""
        return Precision.FP32 if wanted is Precision.HALF and not self.scheme.half else wanted

    @property
    def quantises(self) -> bool:
        """Whether this candidate offers INT8 to layers that are not pinned to it."""
        return self.variant in (Variant.INT8, Variant.MIX)

    def decide(self, graph: gs.Graph, layer: Layer, snr_db: float | None) -> LayerDecision:
        """The precision of one layer with weights."""
        if layer.came_quantised:
            because = "it came quantised"
            return LayerDecision(Precision.INT8, because, layer.op, came_quantised=True)
        if not self.quantises:
            return LayerDecision(self.default, self._float_reason(), layer.op, snr_db)
        obstacle = self.obstacle(layer)
        if obstacle:
            return LayerDecision(self.default, f"cannot be quantised: {obstacle}", layer.op)
        snr = "no SNR" if snr_db is None else f"{snr_db:.1f} dB"
        if self.variant is Variant.INT8:
            because = f"quantised wherever possible ({snr})"
            return LayerDecision(Precision.INT8, because, layer.op, snr_db)
        against = _against_int8(graph, layer)
        if against:
            return LayerDecision(self.default, against, layer.op, snr_db)
        passes = snr_db is not None and snr_db >= self.min_snr_db
        because = f"{snr} {'≥' if passes else '<'} {self.min_snr_db:g} dB"
        return LayerDecision(Precision.INT8 if passes else self.default, because, layer.op, snr_db)

    def obstacle(self, layer: Layer) -> str:
        """Why INT8 is out of the question for a layer on this target; "" where it is not."""
        if layer.op not in self.scheme.int8_ops:
            return f"the runtime has no INT8 {layer.op}"
        return layer.obstacle

    def unless_refused(self, name: str, decision: LayerDecision) -> LayerDecision:
        """The decision, or the float type where the runtime was seen not to keep INT8."""
        if decision.precision is not Precision.INT8 or decision.pinned or name not in self.refused:
            return decision
        because = self.refused[name]
        return replace(decision, precision=self.default, because=because, came_quantised=False)

    def follow(
        self, graph: gs.Graph, decisions: Decisions, residuals: Mapping[str, ResidualDecision]
    ) -> Decisions:
        """`decisions` and one for every other node that computes, in graph order.

        An activation goes with the layer it is fused into, a MaxPool with the integers around it;
        what joins branches is INT8 only where the runtime quantises outputs (`quantise_outputs`),
        a residual Add where its policy quantises.
        """
        known, named = dict(decisions), frozenset(computing(graph))
        for node in graph.nodes:
            if node.name in known:
                continue
            if node.name in residuals:
                decision = self._residual(node, residuals[node.name])
            elif node.name in named:
                decision = self._follower(graph, node, known)
            else:
                continue
            known[node.name] = self.unless_refused(node.name, decision)
        order = [node.name for node in graph.nodes if node.name in known]
        return {name: known[name] for name in order}

    def _residual(self, node: gs.Node, decision: ResidualDecision) -> LayerDecision:
        quantised = decision.policy is not ResidualPolicy.KEEP_HALF
        integer = quantised and self.scheme.quantise_outputs
        because = f"{decision.policy}: {decision.because}" if quantised else decision.because
        return LayerDecision(Precision.INT8 if integer else self.default, because, op_of(node))

    def _follower(self, graph: gs.Graph, node: gs.Node, known: Decisions) -> LayerDecision:
        sources = [tensor for tensor in node.inputs if not is_constant(tensor) and tensor.name]
        maker = producer(sources[0]) if sources else None
        fused = maker is not None and output_of(graph, maker) is node.outputs[0]
        if maker is not None and fused and maker.name in known:
            source = known[maker.name]
            if source.precision is Precision.INT8 and self._stays_apart(maker):
                because = f"an INT8 {maker.op} takes no activation into its kernel"
                return LayerDecision(self.default, because, op_of(node))
            because, came = f"follows {maker.name}", source.came_quantised
            return LayerDecision(source.precision, because, op_of(node), came_quantised=came)
        if self._rides(node, sources, known):
            return LayerDecision(Precision.INT8, "integers on both sides", op_of(node))
        return LayerDecision(self.default, self._float_reason(), op_of(node))

    def _stays_apart(self, maker: gs.Node) -> bool:
        """TensorRT(-RTX) writes an INT8 matrix product in float before anything else is done."""
        return not self.scheme.quantise_outputs and op_of(maker) in ("Gemm", "MatMul")

    def _rides(self, node: gs.Node, sources: list[gs.Tensor], known: Decisions) -> bool:
        made = bool(sources) and all(_integer_made(tensor, known) for tensor in sources)
        if op_of(node) == "MaxPool":
            wanted = _integer_wanted(node.outputs[0], known)
            return wanted or (self.scheme.quantise_outputs and made)
        whole = not any(
            map(is_constant, node.inputs)
        )  # a constant stays float, and the sum with it
        return op_of(node) in JOINS and self.scheme.quantise_outputs and made and whole

    def _float_reason(self) -> str:
        if self.variant is Variant.HALF and self.default is Precision.FP32:
            return "the target has no half type"
        return f"the {self.variant} candidate's float type"

    def settle(self, graph: gs.Graph, decisions: Decisions) -> tuple[Precision, Decisions]:
        """The default and the decisions that the target's half type allows."""
        if self.scheme.half is None:
            return self.default, decisions
        if not self.scheme.half_in_graph:
            return self._one_float_type(decisions)
        nodes = {node.name: node for node in graph.nodes}
        default = self._around_int8(decisions)
        settled = dict(decisions)
        for name, decision in decisions.items():
            loss = self.half_losses.get(name, "")
            if decision.precision is Precision.HALF:
                loss = half_obstacle(nodes[name], graph.opset, self.scheme.half) or loss
            elif default is not Precision.HALF or decision.precision is not Precision.INT8:
                continue
            if loss:
                settled[name] = replace(decision, precision=Precision.FP32, because=loss)
        return default, settled

    def _around_int8(self, decisions: Decisions) -> Precision:
        """The plan's default, which INT8 layers read and write.

        Not half where that breaks a layer that has to be INT8; all others are listed.
        """
        pinned = {n for n, d in decisions.items() if d.pinned and d.precision is Precision.INT8}
        return Precision.FP32 if pinned & self.half_losses.keys() else self.default

    def _one_float_type(self, decisions: Decisions) -> tuple[Precision, Decisions]:
        """One type for every float layer, because the runtime takes no more.

        A pin to fp32 then takes the half type from every layer; a pin to half is not to be had
        beside fp32 layers.
        """
        pinned = [n for n, d in decisions.items() if d.pinned and d.precision is Precision.FP32]
        default = Precision.FP32 if pinned else self.default
        if default is Precision.HALF:
            return default, decisions
        blame = f"{pinned[0]} is pinned to fp32, and" if pinned else "pinned to half, but"
        because = f"{blame} this runtime takes one float type for all layers"
        settled = dict(decisions)
        for name, decision in decisions.items():
            if decision.precision is Precision.HALF:
                settled[name] = replace(decision, precision=default, because=because)
        return default, settled


def computing(graph: gs.Graph) -> tuple[str, ...]:
    """Names of the nodes whose precision is to be decided, in graph order.

    They compute floats of the model's inputs. What is computed of sizes alone stays as it is: half
    a pixel is lost from 2048 on in FP16.
    """
    carried = carrying(graph)
    return tuple(node.name for node in graph.nodes if node.name in carried and computes(node))


def computes(node: gs.Node) -> bool:
    """Whether a node computes floats, be it of sizes alone."""
    kinds = [dtype_of(tensor) for tensor in node.outputs]
    return not moves(node) and any(kind is not None and kind.kind == "f" for kind in kinds)


def _against_int8(graph: gs.Graph, layer: Layer) -> str:
    """Why the rules keep a layer float although it can be quantised; "" where they do not."""
    wide, narrow = layer.channels
    if layer.depthwise:
        return "depthwise: INT8 is padded to 4 channels a group"
    if is_first(graph, layer) and wide <= _IMAGE_CHANNELS:
        return f"first layer: {wide} input channel{'s' if wide > 1 else ''}"
    if is_last(layer):
        return "last layer: logits"
    if layer.op in ("Conv", "ConvTranspose") and min(wide, narrow) < _NARROW:
        return f"narrow: {wide} → {narrow} channels, below {_NARROW} INT8 mostly does not pay"
    if narrow == 1:
        return "a matrix with one column: INT8 does not pay"
    return ""


def _integer_made(tensor: gs.Tensor, known: Mapping[str, LayerDecision]) -> bool:
    """Whether a tensor comes out of a layer planned in INT8."""
    maker = producer(tensor)
    while maker is not None and moves(maker):
        maker = producer(maker.inputs[0])
    if maker is None or maker.name not in known:
        return False
    return known[maker.name].quantises


def _integer_wanted(tensor: gs.Tensor, known: Mapping[str, LayerDecision]) -> bool:
    """Whether a layer planned in INT8 reads a tensor, perhaps through what only moves values."""
    for node in tensor.outputs:
        if op_of(node) in WEIGHTED:
            decision = known.get(node.name)
            if decision and decision.quantises and node.inputs[0] is tensor:
                return True
        elif commutes(node) and _integer_wanted(node.outputs[0], known):
            return True
    return False
