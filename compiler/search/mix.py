"""A plan for the mix: evidence on every layer, a search, and the reason for each decision."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from pydantic import TypeAdapter

from rtc.calibration.sensitivity import LayerSensitivity, Sensitivity
from rtc.compiler.building.builder import Builder
from rtc.compiler.core.errors import BuilderError, DataError, MachineError, ModelError
from rtc.compiler.core.operators import WEIGHTED
from rtc.compiler.core.precision import (
    LayerDecision,
    Precision,
    PrecisionPlan,
    ResidualPolicy,
    Variant,
)
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.results import SearchRow
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.core.verdicts import TrialState
from rtc.compiler.execution.stages import Files, versions
from rtc.compiler.lowering.job import Job
from rtc.compiler.measure.provenance import hardware
from rtc.compiler.recipe.plan_file import parse_plan, plan_text
from rtc.compiler.recipe.sections import Search
from rtc.compiler.report.figures import plans, significant
from rtc.compiler.search.evidence import evidence_of, ledger_of
from rtc.compiler.search.parts import network
from rtc.compiler.search.programme import Space, Ways, way
from rtc.compiler.search.rows import add_rows, search_row
from rtc.compiler.search.trial import Lab, decisions
from rtc.compiler.search.trials_loop import Goal, Searcher, SearchResult
from rtc.passes.quantise.recalibrate import Recalibrate
from rtc.passes.quantise.residual_ledger import LedgerRow, PolicyEvidence
from rtc.passes.support.onnx_graph import read
from rtc.passes.support.residuals import residuals

LEDGER_SAMPLES = Recalibrate.samples
"""Each Add is run under every policy, and policies differ by decibels: few samples tell. The same
few that ranges around an Add are taken anew from: what was tried is what is built."""
_WORTH_DB = 1.0
_EVIDENCE_SHARE, _LEDGER_SHARE = 0.4, 0.2  # of the time, at most; the rest is for trials
_TRIAL_SHARE = 0.05  # of the time that one trial may spend on samples
_SECONDS, _LEAST = 60.0, 3  # where no time is given: to share, and trials of each runtime at least
_ROW: TypeAdapter[SearchRow] = TypeAdapter(SearchRow)


@dataclass(frozen=True)
class Decided:
    """The plan that a search came to, with its reasons, and what the report says of the search."""

    plan: PrecisionPlan
    row: SearchRow


def decided(builder: Builder, options: Search) -> Decided:
    """What `decide` comes to, or came to with the same inputs and the same time to search in.

    A search that fails costs the search, not the mix: the rules' plan stands, with a warning, and
    the row says why.
    """
    begun = time.monotonic()
    try:
        return _searched(builder, options)
    except (BuilderError, DataError, MachineError, ModelError) as error:
        name = f"{builder.backend.name} {Variant.MIX}"
        builder.job.stages.listener.warned(
            f"the search for {name} failed, its plan is the rules': {error}"
        )
        took = time.monotonic() - begun
        row = SearchRow(name, "", 0, 0, took, False, False, (), (), {}, failed=str(error))
        return Decided(builder.writer.plan(Variant.MIX), row)


def _searched(builder: Builder, options: Search) -> Decided:
    job, backend, target = builder.job, builder.backend, builder.writer.target
    inputs = {
        "model": job.model.digest,
        "incoming": job.incoming.digest if job.incoming else "",
        "target": asdict(target),
        "request": asdict(job.request),
        "statistics": {n: asdict(seen) for n, seen in job.context.statistics.items()},
        "data": job.context.data.digest,
        "precision": job.recipe.precision.model_dump(mode="json"),
        "options": options.model_dump(mode="json"),
        "sharers": job.sharers,
        "gates": job.recipe.gates.model_dump(mode="json"),
        "seed": job.context.seed,
        "machine": hardware(),
        "versions": [
            backend.available().version,
            versions(("numpy", "onnx", "scipy", "onnxruntime")),
        ],
    }

    def work(_: Progress) -> tuple[Files, str]:
        # Its own stages are kept too, for a search that is stopped; the report tells of the whole.
        apart = replace(job, stages=replace(job.stages, rows=[]))
        decision = decide(Builder.of(apart, backend), options)
        files = {"plan.yaml": plan_text(decision.plan), "search.json": _ROW.dump_json(decision.row)}
        return files, _words(decision.row)

    files = job.stages.run(
        f"search {backend.name} {Variant.MIX}",
        inputs,
        work,
        target=target.profile.name,
        by=[backend],
    )
    plan = parse_plan(files["plan.yaml"], "plan.yaml")
    return Decided(plan, _ROW.validate_json(files["search.json"]))


def _words(row: SearchRow) -> str:
    if row.cut_short:
        return "the time to search in was over at once: the rules' plan"
    best = next(trial for trial in row.trials if trial.state is TrialState.BEST)
    speed = f", {best.over_float[0]:.2f}× float" if best.over_float else ""
    return f"{plans(len(row.trials))} tried, best: {best.name}{speed}"


def decide(builder: Builder, options: Search) -> Decided:
    """Search a plan for one runtime.

    Where the time is over before any plan but float was tried, the rules' plan stands, with a
    warning.

    Raises:
        RtcError: as the passes, the evidence and the trial of the float plan.
    """
    begun = time.monotonic()
    seconds = (options.seconds or _SECONDS) / builder.job.sharers
    ground = _ground(builder, options, seconds)
    with _lab(builder, options, ground, seconds) as lab:
        goal = _goal(options, builder.job).within_reach(*lab.of_float())
        least = _LEAST if options.seconds is None else 1
        searcher = Searcher(lab, ground.space, goal, seconds, least=least, begun=begun)
        result = searcher.run(partial(_rules, builder, ground.space))
    if len(result.trials) == 1 and not result.ended:
        _warn_of_budget(builder, seconds)
        plan = builder.writer.plan(Variant.MIX)
    else:
        plan = explained(builder, result, ground.evidence)
    name = f"{builder.backend.name} {Variant.MIX}"
    row = search_row(name, result, ground.evidence, lab, time.monotonic() - begun)
    lines = add_rows(ground.ledger, plan, result, builder.writer.target.scheme)
    return Decided(plan, replace(row, ledger=lines, ledger_samples=LEDGER_SAMPLES))


@dataclass(frozen=True)
class _Ground:
    """What is known before the first trial: of layers, of residual Adds, and what to choose."""

    evidence: Sensitivity
    ledger: tuple[LedgerRow, ...]
    space: Space
    float_plan: PrecisionPlan


def _ground(builder: Builder, options: Search, seconds: float) -> _Ground:
    samples = builder.job.context.data.calibration
    evidence = evidence_of(
        builder.writer,
        samples.head(options.evidence),
        exact=options.engine == "exact",
        within_s=_EVIDENCE_SHARE * seconds,
    )
    float_plan, int8_plan = ends(builder, evidence)
    ledger = ledger_of(
        builder.writer,
        int8_plan,
        samples.head(LEDGER_SAMPLES),
        within_s=_LEDGER_SHARE * seconds,
    )
    space = space_of(builder, evidence, ledger, (float_plan, int8_plan))
    return _Ground(evidence, ledger, space, float_plan)


def _lab(builder: Builder, options: Search, ground: _Ground, seconds: float) -> Lab:
    return Lab(
        builder,
        ground.space.network,
        builder.job.context.data.calibration.head(options.samples),
        ground.float_plan,
        {row.add: row.recalibrated for row in ground.ledger},
        _goal(options, builder.job).modes,
        _TRIAL_SHARE * seconds,
    )


def _rules(builder: Builder, space: Space) -> Ways:
    """The ways of the plan that is made without a search."""
    plan = builder.writer.plan(Variant.MIX)
    return {name: way(plan, name) for name in space.chosen}


def _goal(options: Search, job: Job) -> Goal:
    """The most accurate plan is looked for within both gates of time; the fastest needs none."""
    gates, batch = job.recipe.gates, job.recipe.batch
    asked = [gates.latency_ms] if gates.latency_ms is not None else []
    if gates.fps is not None and options.objective == "accuracy":
        asked.append(1e3 * batch / gates.fps)
    return Goal(options.objective, gates, min(asked, default=None))


def ends(builder: Builder, evidence: Sensitivity) -> tuple[PrecisionPlan, PrecisionPlan]:
    """The plans of all in the float type, and of all in INT8 that can be; pins hold in both."""
    able = [row.layer for row in evidence.rows if row.precision is Precision.INT8]
    decision = LayerDecision(Precision.INT8, "where it can be")
    return builder.writer.mix({}), builder.writer.mix(dict.fromkeys(able, decision))


def space_of(
    builder: Builder,
    evidence: Sensitivity,
    ledger: Sequence[LedgerRow],
    plans: tuple[PrecisionPlan, PrecisionPlan],
) -> Space:
    """What there is to choose between the plans of all float and of all INT8.

    What follows the layers with weights may have what it has in either; a pinned layer has no
    choice, nor has an Add whose policy is pinned, nor have the layers that a pinned policy wants in
    INT8. Another residual Add keeps half or has the best of the policies that take as long.
    """
    scheme = builder.writer.target.scheme
    parts = network(builder.job.model)
    float_plan, int8_plan = plans
    half = scheme.half is not None and scheme.half_in_graph
    policies = {row.add: _quantised_policy(row, int8_plan, scheme) for row in ledger}
    bound = _bound_by_pins(builder, int8_plan)

    def offers(name: str) -> tuple[str, ...]:
        if name in bound:
            return (way(int8_plan, name),)
        if float_plan.layers[name].came_quantised:
            return (way(float_plan, name),)
        first, last = way(float_plan, name), policies.get(name, way(int8_plan, name))
        wide = half and parts.parts[name] in WEIGHTED and not float_plan.layers[name].pinned
        return tuple(dict.fromkeys((first, Precision.FP32.value, last) if wide else (first, last)))

    losses = {(row.layer, row.precision.value): _noise(row) for row in evidence.rows}
    losses |= {
        (row.add, policy.policy.value): _extra(row, policy)
        for row in ledger
        for policy in row.policies
    }
    adds = {
        name: (parts.carriers[residual.branches[0]], parts.carriers[residual.branches[1]])
        for name, residual in float_plan.residuals.items()
    }
    also = {} if scheme.quantise_outputs else _also(ledger, policies, bound)
    return Space(parts, {name: offers(name) for name in parts.parts}, adds, losses, scheme, also)


def _bound_by_pins(builder: Builder, int8_plan: PrecisionPlan) -> set[str]:
    """Residual Adds whose pinned policy quantises, and the layers that end their branches."""
    pinned = {
        name
        for name, residual in int8_plan.residuals.items()
        if residual.pinned and residual.policy is not ResidualPolicy.KEEP_HALF
    }
    adds = [add for add in residuals(read(builder.job.model).cleanup()) if add.name in pinned]
    return pinned | {end for add in adds for end in add.ends}


def _also(
    ledger: Sequence[LedgerRow], policies: Mapping[str, str], bound: Collection[str]
) -> dict[str, str]:
    """The policy with kernels of its own that no plan is chosen with: both branches quantised."""
    both = ResidualPolicy.QUANTISE_BOTH
    return {
        row.add: both.value
        for row in ledger
        if row.add not in bound
        and policies[row.add] not in (both.value, ResidualPolicy.KEEP_HALF.value)
        and any(policy.policy is both for policy in row.policies)
    }


def _quantised_policy(row: LedgerRow, plan: PrecisionPlan, scheme: QuantScheme) -> str:
    """The policy of an Add between integers: the plan's, unless another is surely better.

    Only policies that the runtime computes in the same kernels are compared; where ranges are
    taken anew another walk over the samples has to pay.
    """
    own: ResidualPolicy = plan.residual_of(row.add)
    if own is ResidualPolicy.KEEP_HALF or plan.residuals[row.add].pinned:
        return own.value
    alike = {own, ResidualPolicy.RECALIBRATED}
    if scheme.quantise_outputs:
        alike.add(ResidualPolicy.SHARED_SCALE)
    noise = {policy.policy: -policy.output_snr_db.value for policy in row.policies}
    best = min(alike & noise.keys(), key=lambda policy: noise[policy], default=own)
    chosen = best if noise[best] < noise[own] - _WORTH_DB else own
    return str(chosen)


def _noise(row: LayerSensitivity | PolicyEvidence) -> float:
    return math.pow(10, -row.output_snr_db.value / 10)


def _extra(row: LedgerRow, policy: PolicyEvidence) -> float:
    """What a policy adds to the noise that the layers around the Add make in any case."""
    least = next(e for e in row.policies if e.policy is ResidualPolicy.KEEP_HALF)
    return max(0.0, _noise(policy) - _noise(least))


def explained(builder: Builder, found: SearchResult, evidence: Sensitivity) -> PrecisionPlan:
    """The best plan, each layer and each residual Add with what speaks for and against INT8."""
    best = found.best
    how = "measured" if best.outcome.measured else "estimated"
    rows = {row.layer: row for row in evidence.rows if row.precision is Precision.INT8}
    because = {
        name: _because(name, rows.get(name), found, how, evidence.samples) for name in best.choice
    }
    layers, sums = decisions(best.choice, best.plan, because)
    layers = {
        name: replace(layer, snr_db=rows[name].layer_snr_db if name in rows else None)
        for name, layer in layers.items()
    }
    return builder.writer.mix(layers, sums)


def _because(
    name: str, row: LayerSensitivity | None, result: SearchResult, how_known: str, samples: int
) -> str:
    """In words like: 41.2 dB (40.1 – 42.6) at the output in int8, 64 samples; 5.0 µs half, 3.1 µs
    int8 (measured).
    """
    parts = []
    if row is not None:
        snr = row.output_snr_db
        band = f"{snr.value:.1f} dB ({snr.low:.1f} – {snr.high:.1f})"
        parts.append(f"{band} at the output in int8, {samples} samples")
    known = [(how, time) for (part, how), time in result.times.parts.items() if part == name]
    if known:
        times = ", ".join(f"{significant(time)} µs {how}" for how, time in known)
        parts.append(f"{times} ({how_known})")
    return "; ".join(parts) or "searched"


def _warn_of_budget(builder: Builder, seconds: float) -> None:
    builder.job.stages.listener.warned(
        f"{builder.backend.name}: its part of the time to search in ({seconds:g} s) was over when"
        " float alone had been tried; the rules' plan stands (give it more with --budget)"
    )
