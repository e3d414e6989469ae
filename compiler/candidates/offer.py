"""What a device is offered: each runtime's candidates, one for each variant of precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from rtc.compiler.building.builder import Builder, Candidate
from rtc.compiler.building.contract import changed
from rtc.compiler.core.errors import BuilderError, GateError, MachineError, ModelError, RecipeError
from rtc.compiler.core.operators import WEIGHTED
from rtc.compiler.core.precision import LayerDecision, Precision, PrecisionPlan, Variant
from rtc.compiler.core.results import LayerRow, SearchRow
from rtc.compiler.core.target import Backend
from rtc.compiler.core.verdicts import CandidateState
from rtc.compiler.lowering.job import Job

_REBUILDS = 3
_OF_ONE = {"out-of-memory": CandidateState.FAILED, "unsupported-pin": CandidateState.LEFT_OUT}
"""Errors of machine and recipe, by id, that concern one candidate: the state of its row."""


@dataclass(frozen=True)
class Missing:
    """A candidate that there is no engine of, and why."""

    name: str
    backend: str
    variant: Variant
    state: CandidateState
    reason: str
    search: SearchRow | None = None


def candidates(
    job: Job,
    backend: Backend,
    threads: Mapping[Variant, int] | None = None,
    *,
    unsearched: str = "",
) -> Iterator[Candidate | Missing]:
    """Every variant that the recipe offers, on one runtime, with so many threads where it says.

    A variant whose build fails, or needs more memory than there is, is a row with its reason;
    so is one where this runtime cannot keep a pin. The others go on. One whose plan comes to
    no INT8 is the float variant that it equals: it is left out, and that one is built in its
    place where it is not on offer. `unsearched`: why a mix that takes a search is left out.
    """
    left_out = dict(backend.variants(job.profile))
    if unsearched and job.search is not None:
        left_out.setdefault(Variant.MIX, unsearched)
    offered = {variant for variant in job.recipe.precision.offer if variant not in left_out}
    for variant in job.recipe.precision.offer:
        if variant in left_out:
            yield _missing(backend, variant, CandidateState.LEFT_OUT, left_out[variant])
            continue
        count = (threads or {}).get(variant, job.request.threads)
        tried = _tried(job.with_threads(count), backend, variant)
        if isinstance(tried, Candidate) and tried.variant is not variant:
            reason = f"{_without_int8(tried.plan)}: it is {tried.name}"
            left = _missing(backend, variant, CandidateState.LEFT_OUT, reason)
            yield replace(left, search=tried.search)
            if tried.variant in offered:
                continue
            offered.add(tried.variant)
        yield tried


def _tried(job: Job, backend: Backend, variant: Variant) -> Candidate | Missing:
    try:
        with job.stages.together(f"{backend.name} {variant}", job.profile.name) as stages:
            return candidate(Builder.of(replace(job, stages=stages), backend), variant)
    except (BuilderError, ModelError, GateError) as error:
        return _missing(backend, variant, CandidateState.FAILED, str(error))
    except (MachineError, RecipeError) as error:
        if error.id not in _OF_ONE:
            raise
        return _missing(backend, variant, _OF_ONE[error.id], str(error))


def _missing(backend: Backend, variant: Variant, state: CandidateState, reason: str) -> Missing:
    return Missing(f"{backend.name} {variant}", backend.name, variant, state, reason)


def _without_int8(plan: PrecisionPlan) -> str:
    """That a plan has no layer in INT8, with the reason that most layers give."""
    reasons = Counter(layer.because for layer in plan.layers.values() if layer.op in WEIGHTED)
    why = "".join(f" ({reason})" for reason, _ in reasons.most_common(1))
    return f"no layer runs in INT8{why}"


def candidate(builder: Builder, variant: Variant) -> Candidate:
    """One variant on one runtime: plan, graph, engine, contract.

    The mix is the recipe's plan where that is for this device, else what the search finds. The
    candidate has the name of what its plan comes to, see `_named`. What the runtime then builds
    wider than INT8 was planned wide in the first place: it is planned and built again.
    """
    job = builder.job
    given, row = job.given if variant is Variant.MIX else None, None
    if variant is Variant.MIX and job.search is not None:
        from rtc.compiler.search.mix import decided

        _look_at_int8(builder)
        decision = decided(builder, job.search)
        given, row = decision.plan, decision.row
    for _ in range(_REBUILDS):
        built = builder.realise(_named(builder, builder.writer.plan(variant, given)))
        if given is not None and given is job.given:  # a person's word
            break
        if not _refuse(job, built):
            break
    return replace(built, search=row)


def _look_at_int8(builder: Builder) -> None:
    """Find out what the runtime refuses before plans are searched for; once."""
    if builder.backend.name in builder.job.refused:
        return
    with suppress(BuilderError, ModelError, GateError):  # they show where it is a candidate
        _refuse(builder.job, builder.realise(builder.writer.plan(Variant.INT8)))


def _refuse(job: Job, candidate: Candidate) -> bool:
    """Take in what a runtime built wider than INT8; whether there was anything new."""
    known = job.refused.setdefault(candidate.backend, {})
    layers = candidate.plan.layers
    new = {
        row.name: _why_refused(row, layers[row.name])
        for row in changed(candidate.layers)
        if row.planned == Precision.INT8.value and not row.pinned and row.name not in known
    }
    known |= new
    return bool(new)


def _why_refused(row: LayerRow, decision: LayerDecision) -> str:
    planned = "it came quantised" if decision.came_quantised else "it is planned in INT8"
    return f"the builder runs it in {row.built} where {planned}"


def _named(builder: Builder, plan: PrecisionPlan) -> PrecisionPlan:
    """A plan by the name of what it comes to: without INT8 it may be a float variant's."""
    if not plan.is_float or plan.variant in (Variant.FP32, Variant.HALF):
        return plan
    floats = (builder.writer.plan(variant) for variant in (Variant.FP32, Variant.HALF))
    alike = next((each for each in floats if plan.computes_as(each)), None)
    return alike or replace(plan, variant=Variant.MIX)
