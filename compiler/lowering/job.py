"""What candidates are made of: one float model, its samples, and the device that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from rtc.compiler.core.data import Splits
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.precision import PrecisionPlan
from rtc.compiler.core.target import BuildRequest, DeviceProfile
from rtc.compiler.core.unit import Unit
from rtc.compiler.execution.stages import Stages
from rtc.compiler.frontend.float_model import Front, whole
from rtc.compiler.recipe.schema import Recipe
from rtc.compiler.recipe.sections import Search


@dataclass(frozen=True)
class Job:
    """One float model on its way to one device, on any runtime.

    Attributes:
        recipe: what was asked for.
        model: the float model.
        context: its samples and their statistics.
        request: what engines are built for.
        stages: where results are kept.
        sharers: runtimes that share the time to search in.
        half_losses: what was found of each half type, for all runtimes of this model.
        refused: layers that a runtime was seen to build wider than planned in INT8: why, by runtime
            and layer.
        incoming: the model that came in, where graph passes changed what it computes.
    """

    recipe: Recipe
    model: Unit
    context: PassContext
    request: BuildRequest
    stages: Stages
    sharers: int = 1
    half_losses: dict[str, Mapping[str, str]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    incoming: Unit | None = None

    @classmethod
    def of(
        cls, recipe: Recipe, data: Splits, front: Front, profile: DeviceProfile, stages: Stages
    ) -> Job:
        """A recipe's job on a device, at the recipe's batch and below."""
        context = PassContext(whole(data, front.model), recipe.seed, statistics=front.statistics)
        batches = (front.model.fixed_batch or 1, recipe.batch, recipe.batch)
        request = BuildRequest(profile, batches, recipe.measure.threads)
        return cls(recipe, front.model, context, request, stages, incoming=front.incoming)

    def with_threads(self, count: int) -> Job:
        """The same for engines that get this many CPU threads; 0 for the runtime's own choice."""
        return replace(self, request=replace(self.request, threads=count))

    @property
    def profile(self) -> DeviceProfile:
        """The device."""
        return self.request.profile

    @cached_property
    def given(self) -> PrecisionPlan | None:
        """The recipe's plan, if it is for this device."""
        plan = self.recipe.plan()
        return plan if plan and plan.target == self.profile.name else None

    @property
    def search(self) -> Search | None:
        """How the mix is searched for; None where it is not."""
        return None if self.given else self.recipe.precision.search
