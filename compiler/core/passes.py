"""The pass contract. A pass is a value: a frozen dataclass whose fields are its options.

It declares its `name` (kebab-case, as its file and class: `insert_qdq.py`, `InsertQdq`), the level
it `takes` and `gives`, what it `requires` of the context, and the `bound` that its output keeps:
`Exact` within a tolerance, `Bounded` in a named metric, or `Sound`, where the gates say how much
may change. `apply` gets a unit and gives another back.

Whoever runs it (`rtc.compiler.execution.certified_pass`) checks all of that: what it requires is
there, the output is a valid graph with the same inputs and outputs, `modified` is true, and on real
samples the bound holds. So a pass never judges itself, and has no guards of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from rtc.compiler.core.data import Split, Splits
from rtc.compiler.core.precision import PrecisionPlan
from rtc.compiler.core.progress import Progress, silent
from rtc.compiler.core.target import DeviceProfile, QuantScheme
from rtc.compiler.core.unit import Level, Unit
from rtc.compiler.core.words import Word


@dataclass(frozen=True)
class Exact:
    """Outputs equal the input's within `|a - b| <= max(atol, rtol * |b|)`, every element."""

    atol: float = 1e-5
    rtol: float = 1e-4


@dataclass(frozen=True)
class Bounded:
    """Outputs may change, and `metric` says by how much at most.

    Metrics: "top1_drop" (top-1 accuracy before minus after, as a fraction; needs labels) and
    "disagreement" (fraction of samples whose top-1 class changes; the lower end of its interval).
    """

    metric: str
    limit: float


@dataclass(frozen=True)
class Sound:
    """Outputs are finite and tell of the input's; how far they may change, the gates say.

    Broken where the top-1 class agrees no more often than by chance, and the outputs changed by
    more than they vary from sample to sample.
    """


Bound = Exact | Bounded | Sound

CHANGE_OR_REMOVE = "change or remove the pass in the recipe"
"""What there is to do where a bound is broken, unless a result says otherwise."""

PIN_WIDER = (
    "pin layers to a wider type in precision.pin (`rtc precision culprits` names them), or leave"
    " this variant out of precision.offer"
)
"""What there is to do about a candidate that comes out broken."""

LEAVE_OUT = (
    "leave this variant out of precision.offer: this runtime takes one half type for the whole"
    " model, so no pin spares a layer of it"
)
"""The same where half types are not in the graph."""


class Requirement(Word):
    """What a pass may need of its context beside samples; a recipe's own passes run before both."""

    TARGET = "a target"
    PLAN = "a precision plan"


PLANNED = frozenset({Requirement.TARGET, Requirement.PLAN})
"""What passes require that write a plan into a graph, or repair one for it."""


@dataclass(frozen=True)
class Observation:
    """A statistic that a pass needs of one tensor: `kind` names an observer of rtc.calibration."""

    tensor: str
    kind: str


@dataclass(frozen=True)
class TensorRange:
    """What an observer saw: the range to quantise, and the extremes it was taken from.

    `limit` is where a symmetric scheme clips, at ±limit; None: at the larger of -low and high.
    """

    low: float
    high: float
    seen_low: float
    seen_high: float
    kind: str
    samples: int
    limit: float | None = None


Statistics = Mapping[str, TensorRange]
"""Ranges by tensor name."""


@dataclass(frozen=True)
class TargetContext:
    """What a per-target pass knows of where the model goes.

    `runs`: whether its engines run on this machine, and so are held to what they have to give.
    """

    profile: DeviceProfile
    backend: str
    scheme: QuantScheme
    batch: int
    runs: bool = False


@dataclass(frozen=True)
class PassContext:
    """What a pass may use besides the unit. Nothing here can be written to."""

    data: Splits
    seed: int = 0
    target: TargetContext | None = None
    statistics: Statistics = field(default_factory=dict)
    plan: PrecisionPlan | None = None
    reference: Unit | None = None  # what the output is held against, where it is not the input
    progress: Progress = silent

    def has(self, requirement: Requirement) -> bool:
        """Whether there is what a pass requires."""
        given = {Requirement.TARGET: self.target, Requirement.PLAN: self.plan}
        return given[requirement] is not None

    def where(self) -> TargetContext:
        """The target, for who requires it."""
        assert self.target is not None, "it requires a target, and does not say so"
        return self.target

    def planned(self) -> PrecisionPlan:
        """The plan, for who requires it."""
        assert self.plan is not None, "it requires a plan, and does not say so"
        return self.plan

    def calibration(self) -> Split:
        """The calibration samples."""
        return self.data.calibration


@dataclass(frozen=True)
class Stated:
    """A change of what a model computes, where a pass makes one and is exact beside it.

    Only the change has the pass's bound; all else is held to `beside`.

    Attributes:
        unit: the unit that came in with that change alone.
        beside: what the output keeps of it.
    """

    unit: Unit
    beside: Exact = field(default_factory=Exact)


@dataclass(frozen=True)
class Judged:
    """What a bound speaks of, where it is not the unit that a pass gives.

    A repair's output is no model to run, and what INT8 makes of it is. `unit` is None where it is
    up to the runtime what a model computes: then its engine is judged.
    """

    unit: Unit | None


@dataclass(frozen=True)
class PassResult:
    """What a pass gives back.

    Attributes:
        unit: the new model (the same object where nothing changed).
        modified: whether anything changed.
        summary: one line for a person: what was found or done.
        details: what the report shows, JSON types only; the pass's module documents the keys.
        plan: set by passes that decide precision.
        statistics: set by passes that take ranges anew: all ranges, for the passes after it.
        stated: set by passes that change what the model computes and are exact beside that.
        judged: set where the bound speaks of another model than `unit`.
        remedy: what to do where the bound is broken.
    """

    unit: Unit
    modified: bool
    summary: str
    details: Mapping[str, Any] = field(default_factory=dict)
    plan: PrecisionPlan | None = None
    statistics: Statistics | None = None
    stated: Stated | None = None
    judged: Judged | None = None
    remedy: str = CHANGE_OR_REMOVE


@dataclass(frozen=True)
class Pass(ABC):
    """One step of the pipeline. Subclasses are frozen dataclasses; see the module's docstring."""

    name: ClassVar[str]
    takes: ClassVar[Level]
    gives: ClassVar[Level]
    version: ClassVar[int] = 1  # raised when the same input would give another output
    uses: ClassVar[tuple[str, ...]] = ()  # distributions whose version changes the output
    requires: ClassVar[frozenset[Requirement]] = frozenset()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    @property
    def bound(self) -> Bound:
        """What the output keeps of the input; checked by the pipeline."""
        return Exact()

    @abstractmethod
    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        """Transform the unit."""

    def options(self) -> dict[str, Any]:
        """The fields, as JSON types."""
        return asdict(self)
