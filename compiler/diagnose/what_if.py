"""A change of a plan, tried: both plans on the real runtime, in turns with the float engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rtc.compiler.building.builder import Builder
from rtc.compiler.candidates.threads import paces
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.precision import Precision, PrecisionPlan, ResidualPolicy, Variant
from rtc.compiler.diagnose.plan_difference import Change, changes, side
from rtc.compiler.diagnose.session import opened
from rtc.compiler.execution.stages import Stages
from rtc.compiler.recipe.schema import Recipe
from rtc.compiler.search.parts import network
from rtc.compiler.search.trial import Lab, Outcome
from rtc.passes.support.patterns import matching
from rtc.targets import loader

_SAMPLES = 512


@dataclass(frozen=True)
class Attempt:
    """What a change does.

    Attributes:
        candidate: the runtime and the variant: "openvino mix".
        samples: calibration samples that both plans were run on.
        changes: what differs between the plans, followers included.
        before, after: of the plan, and of the plan changed.
    """

    candidate: str
    samples: int
    changes: tuple[Change, ...]
    before: Outcome
    after: Outcome


def attempt(
    recipe: Recipe,
    stages: Stages,
    pins: Mapping[str, Precision],
    *,
    policies: Mapping[str, ResidualPolicy] | None = None,
    plan: Path | None = None,
    target: str = "",
    backend: str = "",
) -> Attempt:
    """Try a plan with some layers in another precision.

    Args:
        recipe: the recipe.
        stages: where results are kept, and who is told.
        pins: precision by layer name or glob.
        policies: of residual Adds, likewise.
        plan: a plan file or a bundle; the rules' plan when not given.
        target: as `opened`.
        backend: as `opened`.

    Raises:
        RecipeError: as `opened`, and as `AssignPrecision.apply` for the plan and the pins; a policy
            of no Add, or one that its Add cannot have in this plan.
        ModelError, BuilderError, MachineError: the runtime does not build or run it.
    """
    session = opened(
        recipe, stages, target=target, backend=backend, variant=Variant.MIX, here=False
    )
    job, runtime = session.job, session.backend
    best = paces(job, loader.backends_for(job.profile))[runtime.name].threads
    job = job.with_threads(best.get(Variant.MIX, job.request.threads))
    builder = Builder.of(job, runtime)
    writer = builder.writer
    given = side(plan).plan if plan else session.plan
    before = writer.replanned(given, {})
    wanted = _by_name(policies or {}, before)
    after = writer.replanned(given, pins, wanted)
    _refuse_other_policies(after, wanted)
    samples = job.context.data.calibration.head(_SAMPLES)
    float_plan = writer.mix({})
    with Lab(builder, network(job.model), samples, float_plan) as lab:
        outcome, changed = lab.trial(before), changes(before, after)
        return Attempt(
            candidate=f"{runtime.name} {before.variant}",
            samples=len(samples),
            changes=changed,
            before=outcome,
            # Timed again, what is the same would seem faster or slower.
            after=lab.trial(after) if changed else outcome,
        )


def _by_name(
    policies: Mapping[str, ResidualPolicy], plan: PrecisionPlan
) -> dict[str, ResidualPolicy]:
    """Policies by the names of the Adds that they are for."""
    chosen: dict[str, ResidualPolicy] = {}
    for pattern, policy in policies.items():
        names = matching(pattern, plan.residuals, "--set", of="residual Add")
        chosen |= dict.fromkeys(names, policy)
    return chosen


def _refuse_other_policies(plan: PrecisionPlan, wanted: Mapping[str, ResidualPolicy]) -> None:
    for name, policy in wanted.items():
        decision = plan.residuals[name]
        if decision.policy is not policy:
            raise RecipeError(
                f"{name} cannot have the policy {policy} in this plan",
                seen=decision.because,
                fix="set the layers around it to int8 as well",
                id="impossible-pin",
            )
