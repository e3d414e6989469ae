"""A plan for the mix: evidence on every layer, a search, and the reason for each decision."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace

from rtc.calibration import sensitivity
from rtc.calibration.sensitivity import LayerSensitivity, Sensitivity
from rtc.compiler.building import Builder
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.hashing import canonical
from rtc.compiler.core.intervals import Interval
from rtc.compiler.core.operators import WEIGHTED
from rtc.compiler.core.precision import LayerDecision, Precision, PrecisionPlan, Variant
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.target import Backend
from rtc.compiler.precision.parts import Network, network
from rtc.compiler.precision.search import Found, Goal, Searcher, Trial
from rtc.compiler.precision.space import Space, way
from rtc.compiler.precision.trial import Lab, decisions
from rtc.compiler.recipe import Search
from rtc.compiler.report.model import Band, LossRow, SearchRow, TrialRow
from rtc.compiler.stages import Files, versions
from rtc.passes.one_layer import alternatives


@dataclass(frozen=True)
class Decided:
    """The plan that a search came to, with its reasons, and what the report says of the search."""

    plan: PrecisionPlan
    row: SearchRow


def decide(builder: Builder, backend: Backend, options: Search) -> Decided:
    """Search a plan for one runtime.

    Where the time is over before any plan but float was tried, the rules' plan stands, with a
    warning.

    Raises:
        RtcError: as the passes, the evidence and the trial of the float plan.
    """
    begun = time.perf_counter()
    data = builder.context.data
    evidence = evidence_of(builder, backend, data.calibration.head(options.evidence))
    space, float_plan = space_of(builder, backend, evidence)
    rules = builder.plan(backend, Variant.MIX)
    samples = data.calibration.head(options.samples)
    lab = Lab(builder, backend, space.network, samples, float_plan)
    gates = builder.recipe.gates
    goal = Goal(options.objective, gates.top1_drop, gates.parity, gates.latency_ms)
    found = Searcher(lab, space, goal, options.seconds).run(
        {name: way(rules, name) for name in space.chosen}
    )
    if len(found.trials) == 1 and not found.ended:
        _warn_of_budget(builder, backend, options.seconds)
        plan = rules
    else:
        plan = explained(builder, backend, found, evidence)
    seconds = time.perf_counter() - begun
    return Decided(plan, _row(f"{backend.name} {Variant.MIX}", found, evidence, lab, seconds))


def evidence_of(builder: Builder, backend: Backend, samples: Split) -> Sensitivity:
    """What each layer loses in each precision: by the fast engine, or the exact one for a graph
    with an operator that the fast one has no gradient of.

    Raises:
        ModelError: the model is no classifier.
        DataError: an activation is not finite; the layer is named.
    """
    target = builder.target(backend)
    context = replace(builder.context, target=target)
    inputs = {
        "model": builder.model.digest,
        "target": asdict(target),
        "statistics": {name: asdict(seen) for name, seen in context.statistics.items()},
        "data": context.data.digest,
        "samples": len(samples),
        "seed": context.seed,
        "versions": versions(("numpy", "onnx", "onnxruntime")),
    }

    def work(progress: Progress) -> tuple[Files, str]:
        proto, offered = alternatives(builder.model, context)
        try:
            found = sensitivity.fast(proto, offered, samples, seed=context.seed, progress=progress)
        except ModelError as error:
            if error.id == "not-a-classifier":
                raise
            found = sensitivity.exact(proto, offered, samples, progress)
        told = f"{len(found.rows)} alternatives, {found.engine}, {len(samples)} samples"
        return {"sensitivity.json": canonical(found.to_dict())}, told

    name = f"sensitivity {backend.name}"
    files = builder.stages.run(name, inputs, work, target=target.profile.name)
    return Sensitivity.from_dict(json.loads(files["sensitivity.json"]))


def space_of(
    builder: Builder, backend: Backend, evidence: Sensitivity
) -> tuple[Space, PrecisionPlan]:
    """What there is to choose, and the plan of all in the float type.

    What follows the layers with weights may have what it has in the plans of all float and all
    INT8; a pinned layer has no choice.
    """
    scheme = builder.target(backend).scheme
    parts = network(builder.model)
    able = {row.layer for row in evidence.rows if row.precision is Precision.INT8}
    float_plan = builder.mix(backend, {})
    all_int8 = builder.mix(
        backend, {name: LayerDecision(Precision.INT8, "where it can be") for name in able}
    )
    half = scheme.half is not None and scheme.half_in_graph

    def offers(name: str) -> tuple[str, ...]:
        ends = (way(float_plan, name), way(all_int8, name))
        wide = half and parts.parts[name] in WEIGHTED and not float_plan.layers[name].pinned
        return tuple(dict.fromkeys((ends[0], Precision.FP32.value, ends[1]) if wide else ends))

    losses = {
        (row.layer, row.precision.value): 10 ** (-row.output_snr_db.value / 10)
        for row in evidence.rows
    }
    adds = {
        name: (parts.carriers[each.branches[0]], parts.carriers[each.branches[1]])
        for name, each in float_plan.residuals.items()
    }
    offered = {name: offers(name) for name in parts.parts}
    return Space(parts, offered, adds, losses, scheme), float_plan


def explained(
    builder: Builder, backend: Backend, found: Found, evidence: Sensitivity
) -> PrecisionPlan:
    """The best plan, each layer and each residual Add with what speaks for and against INT8."""
    best = found.best
    told = "measured" if best.outcome.measured else "estimated"
    rows = {row.layer: row for row in evidence.rows if row.precision is Precision.INT8}
    because = {name: _because(name, rows.get(name), found, told) for name in best.choice}
    layers, sums = decisions(best.choice, best.plan, because)
    layers = {
        name: replace(each, snr_db=rows[name].layer_snr_db if name in rows else None)
        for name, each in layers.items()
    }
    return builder.mix(backend, layers, sums)


def _because(name: str, row: LayerSensitivity | None, found: Found, told: str) -> str:
    """In words like: 41.2 dB at the output in int8; 5.0 µs half, 3.1 µs int8 (measured)."""
    known = [(how, time) for (part, how), time in found.times.parts.items() if part == name]
    times = ", ".join(f"{time:.3g} µs {how}" for how, time in known)
    lost = f"{row.output_snr_db.value:.1f} dB at the output in int8; " if row else ""
    return f"{lost}{times} ({told})"


def _warn_of_budget(builder: Builder, backend: Backend, seconds: float) -> None:
    builder.stages.listener.warned(
        f"{backend.name}: the search's {seconds:g} s were over when float alone had been tried;"
        " the rules' plan stands (give it more with --budget)"
    )


def _row(
    candidate: str, found: Found, evidence: Sensitivity, lab: Lab, seconds: float
) -> SearchRow:
    times: dict[str, dict[str, float]] = {}
    for (part, how), time_us in found.times.parts.items():
        times.setdefault(part, {})[how] = time_us
    return SearchRow(
        candidate=candidate,
        engine=evidence.engine,
        samples=evidence.samples,
        tried_on=len(lab.samples),
        seconds=seconds,
        ended=found.ended,
        measured=found.best.outcome.measured,
        trials=tuple(_trial_row(trial, found) for trial in found.trials),
        losses=tuple(_loss_row(row, lab.network) for row in evidence.rows),
        times_us=times,
    )


def _trial_row(trial: Trial, found: Found) -> TrialRow:
    outcome = trial.outcome
    state = "best" if trial is found.best else "passed" if trial.passed else "refused"
    where = outcome.latency
    return TrialRow(
        name=trial.name,
        state=state,
        layers=dict(Counter(trial.choice.values())),
        noise_db=10 * math.log10(max(trial.noise, 1e-12)),
        agreement=_band(outcome.agreement),
        top1_drop=_band(outcome.top1_drop) if outcome.top1_drop else None,
        latency=where,
        over_float=_band(outcome.over_float) if outcome.over_float else None,
        predicted_us=trial.predicted_us,
    )


def _loss_row(row: LayerSensitivity, where: Network) -> LossRow:
    return LossRow(
        layer=row.layer,
        op=where.parts.get(row.layer, ""),
        precision=row.precision.value,
        layer_snr_db=row.layer_snr_db,
        output_snr_db=_band(row.output_snr_db),
        kl=_band(row.kl),
        agreement=_band(row.agreement),
        top1_drop=_band(row.top1_drop) if row.top1_drop else None,
    )


def _band(interval: Interval) -> Band:
    return (interval.value, interval.low, interval.high)
