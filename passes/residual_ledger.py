"""The residual ledger: for each residual Add its branches, and what every policy would do to it.

Each policy is written as `insert-qdq` writes it into a model in which the layers that end the two
branches are INT8 and nothing else is, and measured by the exact engine. `recalibrated` has the
ranges that `calibrate-segments` takes for the whole plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtc.calibration.sensitivity import Alternative, LayerSensitivity, exact
from rtc.compiler.core.data import Split
from rtc.compiler.core.evidence import Evidence
from rtc.compiler.core.intervals import Interval
from rtc.compiler.core.passes import PassContext, Statistics
from rtc.compiler.core.precision import (
    LayerDecision,
    Precision,
    ResidualDecision,
    ResidualPolicy,
)
from rtc.compiler.core.unit import Unit
from rtc.passes.calibrate_segments import CalibrateSegments
from rtc.passes.graph import read, write
from rtc.passes.insert_qdq import InsertQdq
from rtc.passes.layers import weighted_layers
from rtc.passes.one_layer import skeleton
from rtc.passes.residual_policy import not_expressible, obstacle, own_policy
from rtc.passes.residuals import Residual, residuals

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class PolicyEvidence:
    """What one policy does to one Add whose branches both end in INT8 layers.

    Attributes:
        policy: the policy.
        add_snr_db: signal-to-noise ratio where the Add's readers find its output, in decibels.
        output_snr_db: the same of the model's output, with its 95 % interval.
        top1_drop: top-1 accuracy before minus after, a fraction; None without labels.
        cost: microseconds that the Add and its branches' last layers take; None: nobody asked.
    """

    policy: ResidualPolicy
    add_snr_db: float
    output_snr_db: Interval
    top1_drop: Interval | None
    cost: Evidence | None = None


@dataclass(frozen=True)
class LedgerRow:
    """One residual Add.

    Attributes:
        add: the ONNX node's name.
        decision: the plan's: branches, their ranges, the policy and why.
        policies: evidence on each policy that the target's scheme can express here.
        left_out: why not, for each of the others.
    """

    add: str
    decision: ResidualDecision
    policies: tuple[PolicyEvidence, ...]
    left_out: Mapping[ResidualPolicy, str]


def residual_ledger(unit: Unit, ctx: PassContext, split: Split) -> tuple[LedgerRow, ...]:
    """A row for each residual Add of the context's plan, in graph order.

    Args:
        unit: the float model.
        ctx: with a plan, its target, and the ranges of the float model.
        split: the samples that errors are measured on; labelled, if accuracy is wanted.

    Raises:
        DataError: an activation of the float model is not finite; the layer is named.
        ModelError: the model is no classifier.
    """
    import onnx

    if ctx.plan is None:
        raise TypeError("a residual ledger is that of a plan")
    graph = read(unit).cleanup()
    trials = _trials(graph, ctx)
    unit = write(graph, unit)
    recalibrated = _recalibrated(unit, ctx)
    model = onnx.load_model_from_string(unit.onnx.proto)
    offered = [trial for trial in trials if not trial.obstacle]
    made = [_alternative(model, unit, trial, ctx, recalibrated) for trial in offered]
    rows = exact(unit.onnx.proto, made, split, ctx.progress).rows if made else ()
    evidence: defaultdict[str, list[PolicyEvidence]] = defaultdict(list)
    for trial, row in zip(offered, rows, strict=True):
        evidence[trial.add.name].append(_evidence(trial.policy, row))
    return tuple(
        LedgerRow(
            add=name,
            decision=decision,
            policies=tuple(evidence[name]),
            left_out={t.policy: t.obstacle for t in trials if t.add.name == name and t.obstacle},
        )
        for name, decision in ctx.plan.residuals.items()
    )


@dataclass(frozen=True)
class _Trial:
    """A policy on an Add, and the obstacle to it, if there is one."""

    add: Residual
    policy: ResidualPolicy
    obstacle: str


def _trials(graph: gs.Graph, ctx: PassContext) -> list[_Trial]:
    """Every policy on every Add, whatever the plan's layers are."""
    scheme = ctx.where().scheme
    able = {
        layer.name
        for layer in weighted_layers(graph)
        if layer.op in scheme.int8_ops and not layer.obstacle
    }
    return [
        _Trial(
            add,
            policy,
            not_expressible(policy, scheme)
            or obstacle(add, own_policy(scheme), scheme, able)
            or obstacle(add, policy, scheme, able),
        )
        for add in residuals(graph)
        for policy in ResidualPolicy
    ]


def _recalibrated(unit: Unit, ctx: PassContext) -> Statistics:
    """All ranges, those around the Adds that the plan quantises taken anew."""
    assert ctx.plan is not None
    policies = {
        name: replace(decision, policy=ResidualPolicy.RECALIBRATED)
        for name, decision in ctx.plan.residuals.items()
        if decision.policy is not ResidualPolicy.KEEP_HALF
    }
    if not policies:
        return ctx.statistics
    plan = replace(ctx.plan, residuals={**ctx.plan.residuals, **policies})
    result = CalibrateSegments(everywhere=False).apply(unit, replace(ctx, plan=plan))
    return result.statistics or ctx.statistics


def _alternative(
    model: onnx.ModelProto, unit: Unit, trial: _Trial, ctx: PassContext, recalibrated: Statistics
) -> Alternative:
    """The model with one policy on one Add between two INT8 layers."""
    target, add, policy = ctx.where(), trial.add, trial.policy
    assert ctx.plan is not None
    decision = replace(ctx.plan.residuals[add.name], policy=policy)
    integer = list(add.ends)
    if target.scheme.quantise_outputs and policy is not ResidualPolicy.KEEP_HALF:
        integer.append(add.name)
    plan = replace(
        ctx.plan,
        default=Precision.FP32,
        layers={name: LayerDecision(Precision.INT8, "around one Add") for name in integer},
        residuals={add.name: decision},
    )
    anew = policy is ResidualPolicy.RECALIBRATED
    ctx = replace(ctx, plan=plan, statistics=recalibrated if anew else ctx.statistics)
    changed = InsertQdq().apply(skeleton(model, unit, *add.ends), ctx).unit
    return Alternative(add.name, Precision.INT8, changed.onnx.proto)


def _evidence(policy: ResidualPolicy, row: LayerSensitivity) -> PolicyEvidence:
    return PolicyEvidence(policy, row.layer_snr_db, row.output_snr_db, row.top1_drop)
