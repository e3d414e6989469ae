"""Plans for one runtime, and the graphs that they are written into by passes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from rtc.compiler.core.hashing import canonical, digest
from rtc.compiler.core.passes import Pass, PassContext, Statistics, TargetContext
from rtc.compiler.core.precision import (
    LayerDecision,
    Precision,
    PrecisionPlan,
    ResidualDecision,
    ResidualPolicy,
    Variant,
)
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.target import Backend
from rtc.compiler.core.unit import Unit
from rtc.compiler.execution.certified_pass import Passed, run_pass
from rtc.compiler.execution.stages import Files, versions
from rtc.compiler.lowering.job import Job

if TYPE_CHECKING:
    from rtc.passes.quantise.assign_precision import AssignPrecision


@dataclass(frozen=True)
class PlanWriter:
    """Makes plans of one job for one runtime, and writes them into the float model."""

    job: Job
    backend: Backend

    @cached_property
    def target(self) -> TargetContext:
        """What the passes know of this device with that runtime."""
        profile, options = self.job.profile, self.job.recipe.precision
        own = self.backend.scheme(profile)
        granularity = options.granularity  # the runtime's own where the recipe is silent
        per_channel = own.per_channel if granularity is None else granularity == "channel"
        scheme = replace(own, weight_scales=options.weights, per_channel=per_channel)
        runs = self.backend.runnable(profile).ok
        return TargetContext(profile, self.backend.name, scheme, self.job.recipe.batch, runs)

    def plan(self, variant: Variant, given: PrecisionPlan | None = None) -> PrecisionPlan:
        """What one variant gives each layer: by `given`, options and pins."""
        name = f"{self.backend.name} {variant}"
        plan = self._pass(self._assigning(variant, given), self.job.model, name).plan
        assert plan is not None, "assign-precision gives a plan"
        return plan

    def mix(
        self,
        layers: Mapping[str, LayerDecision],
        residuals: Mapping[str, ResidualDecision] | None = None,
    ) -> PrecisionPlan:
        """The mix that these decisions make; pins beat them, the rest follows."""
        given = PrecisionPlan(
            model=digest(self.job.model.onnx.proto),
            target=self.job.profile.name,
            variant=Variant.MIX,
            default=Precision.HALF if self.target.scheme.half else Precision.FP32,
            layers=layers,
            residuals=residuals or {},
        )
        return self.replanned(given, {})

    def replanned(
        self,
        plan: PrecisionPlan,
        pin: Mapping[str, Precision],
        policies: Mapping[str, ResidualPolicy] | None = None,
    ) -> PrecisionPlan:
        """A plan with some layers in another precision; what follows them is decided anew.

        `policies` are those of residual Adds, by name.

        It is not kept in the store: finding it there would take as long.

        Raises:
            RecipeError: as `AssignPrecision.apply`, for these pins.
        """
        step = self._assigning(plan.variant, plan)
        context = replace(self.job.context, target=self.target)
        by_name = step.resolved(self.job.model, context, pin)  # a name beats any pin of the recipe
        residuals = {**step.residuals, **(policies or {})}
        step = replace(step, pin={**step.pin, **by_name}, residuals=residuals)
        changed = step.apply(self.job.model, context).plan
        assert changed is not None, "assign-precision gives a plan"
        return changed

    def _assigning(self, variant: Variant, given: PrecisionPlan | None) -> AssignPrecision:
        from rtc.passes.quantise.assign_precision import AssignPrecision

        job, options = self.job, self.job.recipe.precision
        a_persons_word = given is not None and given is job.given
        return AssignPrecision(
            variant=variant,
            observer=options.observer,
            observers=dict(options.observers),
            min_snr_db=options.min_snr_db,
            pin=dict(options.pin),
            given=given,
            residuals=dict(options.residuals),
            half_losses=self._half_losses(variant),
            refused={} if a_persons_word else dict(job.refused.get(self.backend.name, {})),
        )

    def _half_losses(self, variant: Variant) -> Mapping[str, str]:
        """Why a node cannot be half, by name; looked at where the graph may come to hold halves.

        A runtime that takes one float type for the whole model has no choice of nodes.
        """
        scheme, pins = self.target.scheme, self.job.recipe.precision.pin.values()
        offered = variant in (Variant.HALF, Variant.MIX) or Precision.HALF in pins
        if scheme.half is None or not scheme.half_in_graph or not offered:
            return {}
        if scheme.half not in self.job.half_losses:
            self.job.half_losses[scheme.half] = self._look_at_half(scheme.half)
        return self.job.half_losses[scheme.half]

    def _look_at_half(self, half: str) -> Mapping[str, str]:
        job = self.job
        inputs = {
            "model": job.model.digest,
            "half": half,
            "data": job.context.data.digest,
            "versions": versions(("numpy", "onnx", "onnxruntime")),
        }

        def work(progress: Progress) -> tuple[Files, str]:
            from rtc.passes.quantise.half_loss import half_losses

            watched = replace(job.context, target=self.target, progress=progress)
            losses = half_losses(job.model, watched)
            nodes = "node stays" if len(losses) == 1 else "nodes stay"
            return {"half.json": canonical(losses)}, f"{len(losses)} {nodes} float"

        files = job.stages.run(f"range of {half}", inputs, work, target=job.profile.name)
        losses: dict[str, str] = json.loads(files["half.json"])
        return losses

    def steps(self, plan: PrecisionPlan, *, trial: bool = False) -> tuple[Pass, ...]:
        """The passes that write a plan into the model, in order; a float plan needs no mending.

        Repairs look at what the ranges make of the model, so ranges that the recipe or a residual
        Add wants anew come first. A `trial` does without what takes long: the recipe's repairs and
        its segmented ranges.
        """
        from rtc.passes.quantise.calibrate_segments import CalibrateSegments
        from rtc.passes.quantise.cast_precision import CastPrecision
        from rtc.passes.quantise.insert_qdq import InsertQdq
        from rtc.passes.quantise.recalibrate import Recalibrate

        writing: tuple[Pass, ...] = (InsertQdq(), CastPrecision())
        if plan.is_float:
            return writing
        if any(d.policy is ResidualPolicy.RECALIBRATED for d in plan.residuals.values()):
            writing = (Recalibrate(), *writing)
        if trial:
            return writing
        options = self.job.recipe.precision
        everywhere = (CalibrateSegments(),) if options.ranges == "segmented" else ()
        first, last = writing[:-2], writing[-2:]
        return (*everywhere, *first, *options.repairs.steps, *last)

    def graph(
        self, plan: PrecisionPlan, *, trial: bool = False, anew: Statistics | None = None
    ) -> Unit:
        """The graph that a plan is built from, or tried from (see `steps`).

        No step is held against its bound: a plan under examination may well break it. `anew` are
        the ranges around its recalibrated Adds, where they are known already.
        """
        from rtc.passes.quantise.recalibrate import Recalibrate

        context = replace(
            self.job.context,
            target=self.target,
            plan=plan,
            reference=self.job.model,
            statistics={**self.job.context.statistics, **(anew or {})},
        )
        unit = self.job.model
        for step in self.steps(plan, trial=trial):
            if anew is not None and isinstance(step, Recalibrate):
                continue
            result = step.apply(unit, context)
            unit, statistics = result.unit, result.statistics
            context = context if statistics is None else replace(context, statistics=statistics)
        return unit

    def written(self, name: str, plan: PrecisionPlan) -> list[Passed]:
        """Each step upon the one before. All but the last are held against the float model.

        Raises:
            GateError: a step broke its bound.
        """
        passed: list[Passed] = []
        context = replace(self.job.context, plan=plan)
        *quantising, cast = self.steps(plan)
        for step in (*quantising, cast):
            unit = passed[-1].unit if passed else self.job.model
            reference = None if step is cast else self.job.model
            certified = self._pass(step, unit, name, replace(context, reference=reference))
            context = replace(context, statistics=certified.statistics or context.statistics)
            passed.append(certified)
        return passed

    def _pass(
        self, step: Pass, unit: Unit, name: str, context: PassContext | None = None
    ) -> Passed:
        known = replace(context or self.job.context, target=self.target)
        return run_pass(step, unit, known, self.job.stages, label=f"{step.name} {name}")
