"""One candidate opened for work on its precision: the front, its plan, and what writes a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rtc.compiler.building.builder import Builder
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import MachineError, RecipeError
from rtc.compiler.core.naming import nearest
from rtc.compiler.core.precision import Precision, PrecisionPlan, Variant
from rtc.compiler.core.target import Backend, DeviceProfile
from rtc.compiler.core.unit import Unit
from rtc.compiler.execution.stages import Stages
from rtc.compiler.lowering.job import Job
from rtc.compiler.recipe.schema import Recipe
from rtc.compiler.search.workbench import Runtime

_BATCH = 64  # samples that an engine is given at once


@dataclass(frozen=True)
class Session:
    """A float model, a runtime for it, and the plan that the recipe's options give.

    Attributes:
        builder: the recipe, the float model, its data and statistics, the device and the runtime.
        plan: as `PlanWriter.plan` decides it.
    """

    builder: Builder
    plan: PrecisionPlan

    @property
    def job(self) -> Job:
        """The recipe, the float model, its data and statistics, and the device."""
        return self.builder.job

    @property
    def backend(self) -> Backend:
        """The runtime."""
        return self.builder.backend

    @property
    def model(self) -> Unit:
        """The float model."""
        return self.job.model

    def replanned(
        self, pin: Mapping[str, Precision], plan: PrecisionPlan | None = None
    ) -> PrecisionPlan:
        """A plan (this session's, if none is given) with some layers in another precision.

        Raises:
            RecipeError: as `AssignPrecision.apply`, for these pins.
        """
        return self.builder.writer.replanned(plan or self.plan, pin)

    def graph(self, plan: PrecisionPlan) -> Unit:
        """The graph that a plan is built from, the recipe's repairs included.

        No step is held against its bound: a plan under examination may well break it.
        """
        return self.builder.writer.graph(plan)

    def runtime(self, split: Split) -> Runtime:
        """The runtime, ready to build such graphs and run them on samples; to be closed."""
        batch = self.model.fixed_batch or min(_BATCH, len(split))
        request = replace(self.job.request, batches=(batch, batch, batch))
        return Runtime(self.backend, request, split)


def opened(
    recipe: Recipe,
    stages: Stages,
    *,
    target: str = "",
    backend: str = "",
    variant: Variant = Variant.INT8,
    here: bool = True,
) -> Session:
    """Run the front and plan one candidate, or take both from the store.

    Args:
        recipe: the recipe.
        stages: where results are kept, and who is told.
        target: the device, by name or by profile file; the recipe's first when not given.
        backend: the runtime; the device's first that runs here when not given.
        variant: what the candidate offers its layers.
        here: whether its engines have to run on this machine.

    Raises:
        RecipeError: no such target or backend, one that is none of the other's, or a variant that
            the runtime gains nothing from.
        MachineError: the runtime is not installed, or its device is not here.
    """
    from rtc.compiler.frontend.float_model import make_front
    from rtc.compiler.frontend.samples import splits_of
    from rtc.targets import loader

    beside = Path() if target else recipe.path.parent  # of a profile that is named by its file
    device = loader.profile(target or recipe.targets[0], beside)
    chosen = _runtime(device, backend, here=here)
    if variant in (left_out := chosen.variants(device)):
        raise RecipeError(f"{chosen.name} has no {variant} candidate", seen=left_out[variant])
    recipe.admit_code()
    data = splits_of(recipe, stages.known)
    front = make_front(recipe, data, stages)
    builder = Builder.of(Job.of(recipe, data, front, device, stages), chosen)
    return Session(builder, builder.writer.plan(variant))


def _runtime(device: DeviceProfile, name: str, *, here: bool) -> Backend:
    """The backend of that name, or the device's first that runs here."""
    from rtc.targets import loader

    if not name:
        usable = loader.backends_for(device)
        runnable = [backend for backend in usable if backend.runnable(device).ok]
        return _fit((*runnable, *usable)[0], device, here=here)
    chosen = loader.backend(name)
    if name not in device.backends:
        fix = nearest(name, device.backends)
        raise RecipeError(f"target {device.name} is not built with {name}", fix=fix)
    return _fit(chosen, device, here=here)


def _fit(backend: Backend, device: DeviceProfile, *, here: bool) -> Backend:
    """The backend, where it builds for that device on this machine and, if `here`, runs."""
    needed = (backend.available(), backend.runnable(device)) if here else (backend.available(),)
    for availability in needed:
        if not availability.ok:
            raise MachineError(
                f"{backend.name} does not run for {device.name} here: {availability.missing}",
                fix=availability.fix or "name a target that this machine is, such as --target cpu",
                id="not-runnable",
            )
    return backend
