"""`assign-precision`: a decision and a reason for each layer; the graph stays as it is.

For the candidates that quantise, each layer's signal-to-noise ratio is taken over calibration
samples with that layer alone in INT8 (rtc.calibration.sensitivity); `precision_policy` decides;
pins beat it. `residual_policy` then decides on the residual Adds. `details` holds `layers` by
precision and `residuals` by policy, as counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.naming import nearest
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.passes import Observation, Pass, PassContext, PassResult, Requirement
from rtc.compiler.core.precision import (
    LayerDecision,
    Precision,
    PrecisionPlan,
    ResidualPolicy,
    Variant,
)
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.quantise.precision_policy import Policy, computing
from rtc.passes.quantise.residual_policy import ResidualRules
from rtc.passes.support.layers import Layer, origin, weighted_layers
from rtc.passes.support.observing import observations
from rtc.passes.support.onnx_graph import read, write
from rtc.passes.support.patterns import by_name, matching
from rtc.passes.support.residuals import residuals

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_WHERE = "precision.pin"
_SAMPLES = 32  # behind a ratio; each adds a layer's whole output, so few are enough


@dataclass(frozen=True)
class AssignPrecision(Pass):
    """Decide the precision of every layer for one candidate on one target.

    Attributes:
        variant: what the candidate offers its layers.
        observer: the kind of observer that ranges are taken with.
        observers: other kinds, for what layers read, by layer name or glob.
        min_snr_db: the mix quantises a layer from this signal-to-noise ratio on.
        pin: precision by layer name or glob; a name beats a glob, and both beat all else.
        residuals: policy of residual Adds by name or glob, likewise.
        half_losses: why a node cannot be half, by name (see `half_loss`). It beats pins to
            half; a pin to INT8 stays, and the INT8 layers then read and write float32.
        refused: why a layer that was planned in INT8 was built wider, by name; pins beat it.
        given: a plan to keep instead of deciding: that of a search, or one that a person edited.
            Its layers with weights, its pinned ones and its residual Adds count; the others follow.
    """

    name: ClassVar[str] = "assign-precision"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX
    requires: ClassVar[frozenset[Requirement]] = frozenset({Requirement.TARGET})

    variant: Variant = Variant.MIX
    observer: str = "mse"
    observers: Mapping[str, str] = field(default_factory=dict)
    min_snr_db: float = 20.0
    pin: Mapping[str, Precision] = field(default_factory=dict)
    residuals: Mapping[str, ResidualPolicy] = field(default_factory=dict)
    half_losses: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    given: PrecisionPlan | None = None

    def needs(self, unit: Unit) -> frozenset[Observation]:
        """The ranges to take before `apply`: of every tensor that some scheme may quantise."""
        return observations(read(unit), self.observer, self.observers)

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        """Decide.

        Raises:
            RecipeError: a pin that matches nothing, contradicts another, or cannot be kept (id
                "unsupported-pin" where it is this runtime that has no such kernel); a given plan of
                another model or target, or with a layer that the model does not have.
            DataError: a layer whose output is not finite on those samples.
        """
        target = ctx.where()
        policy = Policy(
            Variant(self.variant), target.scheme, self.min_snr_db, self.half_losses, self.refused
        )
        graph = read(unit).cleanup()  # a layer that nothing reads has no precision
        layers = _layers(graph)
        pins = _resolved(self.pin, graph, layers, policy)
        decisions = self._of_layers(unit, graph, layers, policy, pins=pins, ctx=ctx)
        ops = {node.name: op_of(node) for node in graph.nodes}
        joined = self._rules(layers, pins, policy).decide(
            residuals(graph),
            {name for name, decision in decisions.items() if decision.quantises},
            ctx.statistics,
        )
        default, decisions = policy.settle(graph, policy.follow(graph, decisions, joined))
        plan = PrecisionPlan(
            model=digest(unit.onnx.proto),
            target=target.profile.name,
            variant=policy.variant,
            default=default,
            layers={name: replace(d, op=ops[name]) for name, d in decisions.items()},
            residuals=joined,
        )
        summary, details = _summary(plan, layers)
        return PassResult(unit, False, summary, details, plan)

    def _of_layers(
        self,
        unit: Unit,
        graph: gs.Graph,
        layers: Mapping[str, Layer],
        policy: Policy,
        *,
        pins: Mapping[str, Precision],
        ctx: PassContext,
    ) -> dict[str, LayerDecision]:
        """What is decided of each layer by itself: a given plan's word, the policy's, a pin's."""
        kept = self._kept(graph, layers, policy, ctx, digest(unit.onnx.proto))
        wanted = [
            layer
            for name, layer in layers.items()
            if name not in kept
            and not policy.obstacle(layer)
            and (policy.quantises or pins.get(name) is Precision.INT8)
        ]
        snr = _snr(write(graph, unit), wanted, ctx) if wanted else {}
        decisions = {
            n: kept.get(n) or policy.decide(graph, layer, snr.get(n)) for n, layer in layers.items()
        }
        decisions |= {name: decision for name, decision in kept.items() if name not in layers}
        decisions = {name: policy.unless_refused(name, each) for name, each in decisions.items()}
        pinned = {
            name: _pinned(pin, policy, layers.get(name), decisions.get(name))
            for name, pin in pins.items()
        }
        return decisions | pinned

    def resolved(
        self, unit: Unit, ctx: PassContext, pin: Mapping[str, Precision]
    ) -> dict[str, Precision]:
        """Pins by the names of the layers that they match.

        Raises:
            RecipeError: as `apply`, for these pins.
        """
        policy = Policy(Variant(self.variant), ctx.where().scheme, self.min_snr_db)
        if not pin:
            return {}
        graph = read(unit).cleanup()
        layers = _layers(graph)
        return _resolved(pin, graph, layers, policy)

    def _rules(
        self, layers: Mapping[str, Layer], pins: Mapping[str, Precision], policy: Policy
    ) -> ResidualRules:
        able = {
            name
            for name, layer in layers.items()
            if not policy.obstacle(layer) and pins.get(name, Precision.INT8) is Precision.INT8
        }
        wanted = {name: ResidualPolicy(residual) for name, residual in self.residuals.items()}
        given = self.given.residuals if self.given else {}
        floats = frozenset(pins) - layers.keys()
        return ResidualRules(policy.scheme, wanted, able, floats, given)

    def _kept(
        self,
        graph: gs.Graph,
        layers: Mapping[str, Layer],
        policy: Policy,
        ctx: PassContext,
        model: str,
    ) -> dict[str, LayerDecision]:
        """The decisions of the given plan that count, one for each layer with weights."""
        given = self.given
        if given is None:
            return {}
        _refuse_another(given.model, model, "model")
        _refuse_another(given.target, ctx.where().profile.name, "target")
        names = computing(graph)
        for name, decision in given.layers.items():
            if name not in names:
                raise RecipeError(
                    "the plan names a layer that the model does not have",
                    where="precision.plan",
                    seen=repr(name),
                    fix=nearest(name, names),
                    id="unknown-layer",
                )
            if name in layers or decision.pinned:
                _refuse_impossible(name, decision.precision, layers, policy)
        rest = LayerDecision(policy.float_type(given.default), "the plan's default")
        listed = {
            name: replace(
                decision,
                precision=policy.float_type(decision.precision),
                came_quantised=_comes_so(layers.get(name), decision.precision),
            )
            for name, decision in given.layers.items()
            if name in layers or decision.pinned
        }
        rests = (name for name, layer in layers.items() if not layer.came_quantised)
        return {**dict.fromkeys(rests, rest), **listed}


def _summary(plan: PrecisionPlan, layers: Mapping[str, Layer]) -> tuple[str, dict[str, Any]]:
    """How many layers with weights, and how many residuals, were decided which way."""
    counts = Counter(d.precision.value for name, d in plan.layers.items() if name in layers)
    summary = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    policies = Counter(decision.policy.value for decision in plan.residuals.values())
    details = {"layers": dict(counts), "residuals": dict(policies)}
    return f"{summary or 'no'} layers with weights", details


def _layers(graph: gs.Graph) -> dict[str, Layer]:
    """The layers with weights whose precision is to be decided, by name."""
    decided = frozenset(computing(graph))
    return {layer.name: layer for layer in weighted_layers(graph) if layer.name in decided}


def _resolved(
    pin: Mapping[str, Precision], graph: gs.Graph, layers: Mapping[str, Layer], policy: Policy
) -> dict[str, Precision]:
    """The pinned precision by layer name."""
    asked = {pattern: Precision(precision) for pattern, precision in pin.items()}
    names = computing(graph)
    for name in (pattern for pattern in asked if pattern in names):
        _refuse_impossible(name, asked[name], layers, policy)

    def matches(pattern: str) -> list[str]:
        return _matches(pattern, names, asked[pattern], layers, policy)

    return by_name(asked, names, matches, _WHERE)


def _refuse_another(seen: str, expected: str, kind: str) -> None:
    if seen != expected:
        raise RecipeError(
            f"this plan was made for another {kind}",
            where="precision.plan",
            seen=seen,
            expected=expected,
            fix=f"take the plan out of a bundle of this {kind}, or put its {kind} into the plan if "
            "you know that its layers are the same",
            id=f"another-{kind}s-plan",
        )


def _snr(unit: Unit, layers: Iterable[Layer], ctx: PassContext) -> dict[str, float]:
    """Decibels by layer. `unit`'s nodes bear the names that the layers do."""
    from rtc.calibration.sensitivity import LayerProbe, layer_snr

    scheme = ctx.where().scheme
    probes = [
        LayerProbe(
            layer.name,
            layer.axis,
            ctx.statistics[origin(layer.node.inputs[0]).name],
            paired=layer.paired(scheme),
        )
        for layer in layers
    ]
    return layer_snr(
        unit.onnx.proto, probes, scheme, ctx.calibration().head(_SAMPLES), ctx.progress
    )


def _matches(
    pattern: str,
    names: Iterable[str],
    precision: Precision,
    layers: Mapping[str, Layer],
    policy: Policy,
) -> list[str]:
    """Layers that a glob pins. To INT8 it pins those that can be quantised."""
    matched = matching(pattern, names, _WHERE)
    if precision is not Precision.INT8:
        return matched
    able = [
        name
        for name in matched
        if _comes_so(layers.get(name), precision)
        or (name in layers and not policy.obstacle(layers[name]))
    ]
    if not able:
        _refuse_impossible(matched[0], precision, layers, policy)
    return able


def _refuse_impossible(
    name: str, precision: Precision, layers: Mapping[str, Layer], policy: Policy
) -> None:
    if precision is not Precision.INT8 or _comes_so(layers.get(name), precision):
        return
    if name not in layers:
        why = "only layers with weights are quantised on their own; others follow them"
    else:
        why = policy.obstacle(layers[name])
    if why:
        elsewhere = name in layers and layers[name].op not in policy.scheme.int8_ops
        raise RecipeError(
            f"{name} cannot be pinned to int8: {why}",
            where=_WHERE,
            fix="pin it to half or fp32, or take the pin out",
            id="unsupported-pin" if elsewhere else "impossible-pin",
        )


def _comes_so(layer: Layer | None, precision: Precision) -> bool:
    """Whether a layer has a precision already: INT8, as it came."""
    return precision is Precision.INT8 and layer is not None and layer.came_quantised


def _pinned(
    precision: Precision, policy: Policy, layer: Layer | None, decision: LayerDecision | None
) -> LayerDecision:
    snr = decision.snr_db if decision else None
    if precision is Precision.HALF and policy.scheme.half is None:
        because = "pinned to half, and the target has no half type"
        return LayerDecision(Precision.FP32, because, snr_db=snr, pinned=True)
    because, came = f"pinned to {precision}", _comes_so(layer, precision)
    return LayerDecision(precision, because, snr_db=snr, pinned=True, came_quantised=came)
