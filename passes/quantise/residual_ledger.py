"""The residual ledger: for each residual Add its branches, and what every policy would do to it.

Each policy is written as `insert-qdq` writes it into a model in which the layers that end the two
branches are INT8 and nothing else is, and measured by the exact engine. `recalibrated` has ranges
that were taken anew in that same model.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtc.calibration.sensitivity import LayerSensitivity, exact
from rtc.compiler.core.data import Split
from rtc.compiler.core.intervals import Interval
from rtc.compiler.core.passes import PassContext, Statistics
from rtc.compiler.core.precision import (
    ResidualDecision,
    ResidualPolicy,
)
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.one_add import beside_one_add, ranges_around
from rtc.passes.quantise.residual_policy import not_expressible, obstacle, own_policy
from rtc.passes.support.layers import weighted_layers
from rtc.passes.support.onnx_graph import read, write
from rtc.passes.support.residuals import Residual, residuals

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class PolicyEvidence:
    """What one policy does to one Add whose branches both end in INT8 layers.

    Attributes:
        policy: the policy.
        add_snr_db: signal-to-noise ratio where the Add's readers find its output, in decibels.
        output_snr_db: the same of the model's output, with its 95 % interval.
        top1_drop: top-1 accuracy before minus after, a fraction; None without labels.
    """

    policy: ResidualPolicy
    add_snr_db: float
    output_snr_db: Interval
    top1_drop: Interval | None


@dataclass(frozen=True)
class LedgerRow:
    """One residual Add.

    Attributes:
        add: the ONNX node's name.
        decision: the plan's: branches, their ranges, the policy and why.
        policies: evidence on each policy that the target's scheme can express here.
        left_out: why not, for each of the others.
        recalibrated: the ranges of the policy of that name, by tensor; none where it is left out.
    """

    add: str
    decision: ResidualDecision
    policies: tuple[PolicyEvidence, ...]
    left_out: Mapping[ResidualPolicy, str]
    recalibrated: Statistics


def residual_ledger(
    unit: Unit, ctx: PassContext, split: Split, *, within_s: float = math.inf
) -> tuple[LedgerRow, ...]:
    """A row for each residual Add of the context's plan, in graph order.

    Args:
        unit: the float model.
        ctx: with a plan, its target, and the ranges of the float model.
        split: the samples that errors are measured on; labelled, if accuracy is wanted.
        within_s: seconds after which no further batch is measured.

    Raises:
        DataError: an activation of the float model is not finite; the layer is named.
        ModelError: the model is no classifier.
    """
    import onnx

    graph = read(unit).cleanup()
    trials = _trials(graph, ctx)
    unit = write(graph, unit)
    model = onnx.load_model_from_string(unit.onnx.proto)
    offered = [trial for trial in trials if not trial.obstacle]
    anew = [offer for offer in offered if offer.policy is ResidualPolicy.RECALIBRATED]
    ranges = ranges_around(unit, ctx, [offer.add for offer in anew], split)
    made = [
        beside_one_add(
            model,
            unit,
            offer.add,
            offer.policy,
            _with(ctx, ranges[offer.add.name]) if offer in anew else ctx,
        )
        for offer in offered
    ]
    effects = exact(unit.onnx.proto, made, split, within_s=within_s, progress=ctx.progress)
    rows = effects.rows if made else ()
    evidence: defaultdict[str, list[PolicyEvidence]] = defaultdict(list)
    for trial, row in zip(offered, rows, strict=True):
        evidence[trial.add.name].append(_evidence(trial.policy, row))
    return tuple(
        LedgerRow(
            add=name,
            decision=decision,
            policies=tuple(evidence[name]),
            left_out={t.policy: t.obstacle for t in trials if t.add.name == name and t.obstacle},
            recalibrated=ranges.get(name, {}),
        )
        for name, decision in ctx.planned().residuals.items()
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


def _with(ctx: PassContext, anew: Statistics) -> PassContext:
    return replace(ctx, statistics={**ctx.statistics, **anew})


def _evidence(policy: ResidualPolicy, row: LayerSensitivity) -> PolicyEvidence:
    return PolicyEvidence(policy, row.layer_snr_db, row.output_snr_db, row.top1_drop)
