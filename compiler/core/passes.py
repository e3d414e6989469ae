"""The pass contract. A pass is a value: a frozen dataclass whose fields are its options.

`name` is kebab-case and equals the file's and the class's name (`insert_qdq.py`, `InsertQdq`,
`insert-qdq`). A pass owns the bytes it is given, gives a new unit back, and says what bound its
output keeps: `Exact` within a tolerance, `Bounded` in a named metric, or `Sound`, where the gates
say how much may change. The pipeline checks the bound on real samples after every pass, so a pass
never judges itself. Where a pass changes what the model computes and is exact beside that, it gives
the model with that change alone as well, and each of the two steps is held to its own bound.
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

    def where(self) -> TargetContext:
        """The target; asking for it before any target is a bug of the caller."""
        if self.target is None:
            raise TypeError("this pass runs once per target")
        return self.target

    def calibration(self) -> Split:
        """The calibration samples."""
        return self.data.calibration


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
        stated: set by passes that change what the model computes and are exact beside that: the
            unit that came in with the stated change alone. Only that change has `Pass.bound`, and
            all else is held to `Pass.beside`.
    """

    unit: Unit
    modified: bool
    summary: str
    details: Mapping[str, Any] = field(default_factory=dict)
    plan: PrecisionPlan | None = None
    statistics: Statistics | None = None
    stated: Unit | None = None


@dataclass(frozen=True)
class Pass(ABC):
    """One step of the pipeline. Subclasses are frozen dataclasses; see the module's docstring."""

    name: ClassVar[str]
    takes: ClassVar[Level]
    gives: ClassVar[Level]
    version: ClassVar[int] = 1  # raised when the same input would give another output
    uses: ClassVar[tuple[str, ...]] = ()  # distributions whose version changes the output
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    @property
    def bound(self) -> Bound:
        """What the output keeps of the input; checked by the pipeline."""
        return Exact()

    def remedy(self, ctx: PassContext) -> str:
        """What to do where its bound is broken."""
        return "change or remove the pass in the recipe"

    @property
    def beside(self) -> Exact:
        """What the output keeps of the input with the stated change alone (`PassResult.stated`)."""
        return Exact()

    def needs(self, unit: Unit) -> frozenset[Observation]:
        """Statistics to collect over the calibration set before `apply`."""
        return frozenset()

    @abstractmethod
    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        """Transform the unit."""

    def judged(self, unit: Unit, ctx: PassContext) -> Unit | None:
        """What the bound speaks of, given the pass's output: that output itself.

        A repair's output is no model to run; what INT8 makes of it is. None where it is up to the
        runtime what a model computes, and the engine is at hand to be judged.
        """
        return unit

    def options(self) -> dict[str, Any]:
        """The fields, as JSON types."""
        return asdict(self)
