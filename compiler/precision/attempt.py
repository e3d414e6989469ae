"""A change of a plan, tried: both plans on the real runtime, in turns with the float engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rtc.compiler.core.precision import Precision, Variant
from rtc.compiler.precision.difference import Change, changes, side
from rtc.compiler.precision.parts import network
from rtc.compiler.precision.session import opened
from rtc.compiler.precision.trial import Lab, Outcome
from rtc.compiler.recipe import Recipe
from rtc.compiler.stages import Stages
from rtc.compiler.threads import threads_of

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
    plan: Path | None = None,
    target: str = "",
    backend: str = "",
) -> Attempt:
    """Try a plan with some layers in another precision.

    Args:
        recipe: the recipe.
        stages: where results are kept, and who is told.
        pins: precision by layer name or glob.
        plan: a plan file or a bundle; the rules' plan when not given.
        target: as `opened`.
        backend: as `opened`.

    Raises:
        RecipeError: as `opened`, and as `AssignPrecision.apply` for the plan and the pins.
        ModelError, BuilderError, MachineError: the runtime does not build or run it.
    """
    session = opened(recipe, stages, target=target, backend=backend, variant=Variant.MIX)
    runtime = session.backend
    builder = session.builder.with_threads(
        threads_of(session.builder, runtime).get(Variant.MIX, session.builder.request.threads)
    )
    given = side(plan).plan if plan else session.plan
    before = builder.replanned(runtime, given, {})
    after = builder.replanned(runtime, given, pins)
    samples = builder.context.data.calibration.head(_SAMPLES)
    float_plan = builder.mix(runtime, {})
    with Lab(builder, runtime, network(builder.model), samples, float_plan) as lab:
        return Attempt(
            candidate=f"{runtime.name} {before.variant}",
            samples=len(samples),
            changes=changes(before, after),
            before=lab.trial(before),
            after=lab.trial(after),
        )
