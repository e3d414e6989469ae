"""What a report says, as data: `report.json`. The HTML page and the terminal are drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rtc.compiler.core.evidence import Evidence
from rtc.compiler.core.verdicts import CandidateState, LatencyMode, LayerVerdict, TrialState

FLOAT_MODEL = "float model"
SHIPPED_ENGINE = "shipped engine"
"""The two subjects of `AccuracyRow` that every report has, and that the summary compares."""

INCOMING_MODEL = "model that came in"
"""The ONNX model before graph passes that changed what it computes; there only where some did."""


@dataclass(frozen=True)
class GateRow:
    """A gate: what was asked and found; `evidence` is None where it is not a number."""

    name: str
    asked: str
    found: str
    passed: bool | None  # None: waits for a measurement
    reason: str = ""
    evidence: Evidence | None = None


@dataclass(frozen=True)
class StageRow:
    """A step of the pipeline: how long it took when it ran, and what it found."""

    name: str
    seconds: float
    found: str
    key: str = ""


@dataclass(frozen=True)
class CertificateRow:
    """A pass's check: what it promised, what was measured, over how many samples.

    `bound` reads as a sentence ("exact within 1e-05 + 1e-04·|x|"); `measured` as its answer.
    """

    stage: str
    exact: bool
    bound: str
    measured: str
    samples: int
    passed: bool
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class AccuracyRow:
    """Quality of one model on the test set. Fractions between 0 and 1; loss in nats.

    `guess` is the top-1 that the same answers would have if they knew nothing of the labels, with
    95 % of what it then comes to; None where these samples could not tell that from knowing.
    """

    subject: str  # "float model", "shipped engine", "teacher", …
    top1: Evidence
    top5: Evidence | None
    loss: Evidence
    agreement: Evidence | None  # with the float model; None for the float model itself
    runs_on: str
    guess: Evidence | None = None


@dataclass(frozen=True)
class LatencyRow:
    """Latency of one subject in one mode at one batch; milliseconds per batch.

    The summary compares the rows whose `subject` is the report's `shipped` and its `baseline`.
    `evidence.value` is the median. `percentiles` by name
    ("p50" … "p99.9"), `samples_ms` a thinned series for the picture, `fps` = batch / median.
    `statistics`: "first" (the first inference of this case), "mean", "std", "min", "max", and
    "outliers" (how many lie further than 3 std from the mean).
    """

    subject: str
    mode: LatencyMode
    batch: int
    evidence: Evidence
    fps: float | None = None
    speedup: float | None = None  # against the baseline row of the same mode and batch
    speedup_interval: tuple[float, float] | None = None  # 95 %, where both were measured
    percentiles: Mapping[str, float] = field(default_factory=dict)
    samples_ms: tuple[float, ...] = ()
    statistics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CandidateRow:
    """One candidate and what became of it."""

    name: str  # "openvino int8"
    backend: str
    variant: str
    latency: Evidence | None
    top1: Evidence | None
    state: CandidateState
    reason: str = ""
    agreement: Evidence | None = None  # of its classes with the float model's, on the test set


@dataclass(frozen=True)
class LayerRow:
    """One layer of an engine, planned against built."""

    name: str
    op: str
    shape: str
    planned: str
    built: str
    verdict: LayerVerdict
    reason: str
    snr_db: float | None = None
    pinned: bool = False


@dataclass(frozen=True)
class OtherPlan:
    """A candidate that was built and does not ship, layer by layer as in `Report.layers`."""

    candidate: str
    layers: tuple[LayerRow, ...]


Band = tuple[float, float, float]
"""An estimate with the low and the high end of its 95 % interval."""


@dataclass(frozen=True)
class TrialRow:
    """One plan that the search tried, on calibration samples.

    `layers` counts the layers with weights by precision, `noise_db` is what was predicted of them:
    noise at the output against the signal. `over_float` is measured in turns with the float engine.
    """

    name: str
    state: TrialState
    layers: Mapping[str, int]
    noise_db: float
    agreement: Band
    top1_drop: Band | None
    latency: Evidence | None
    over_float: Band | None
    predicted_us: float | None = None


@dataclass(frozen=True)
class LossRow:
    """What changes when one layer alone runs in a precision; see `LayerSensitivity`."""

    layer: str
    op: str
    precision: str
    layer_snr_db: float
    output_snr_db: Band
    kl: Band
    agreement: Band
    top1_drop: Band | None


@dataclass(frozen=True)
class PolicyRow:
    """What one policy does to one residual Add whose branches both end in INT8 layers."""

    policy: str
    add_snr_db: float
    output_snr_db: Band
    top1_drop: Band | None
    time: Evidence | None  # of the Add's own kernel; None where no engine had one like it


@dataclass(frozen=True)
class AddRow:
    """A line of the residual ledger: one Add, its branches, every policy, and the choice."""

    add: str
    branches: tuple[str, str]  # the convolution's, the skip
    ranges: tuple[tuple[float, float], tuple[float, float]]
    choice: str
    because: str
    policies: tuple[PolicyRow, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class SearchRow:
    """One search: the evidence it started from, what it tried, and what it knew of times.

    Attributes:
        candidate: whose plan it is: "openvino mix".
        engine: of the evidence: "fast" (estimated) or "exact" (measured).
        samples: behind the evidence.
        tried_on: samples that plans were tried on.
        ended: whether it came to an end before its time was up.
        measured: whether times are the profiler's; a roofline's estimates otherwise.
        times_us: by layer and precision, per batch, as last seen.
        ledger: a line for each residual Add.
        ledger_samples: behind each of its errors.
        failed: why there is nothing of all this, and the plan is the rules'; "" where there is.
    """

    candidate: str
    engine: str
    samples: int
    tried_on: int
    seconds: float
    ended: bool
    measured: bool
    trials: tuple[TrialRow, ...]
    losses: tuple[LossRow, ...]
    times_us: Mapping[str, Mapping[str, float]]
    ledger: tuple[AddRow, ...] = ()
    ledger_samples: int = 0
    failed: str = ""

    @property
    def cut_short(self) -> bool:
        """Whether its time was over when float alone had been tried, so the plan is the rules'."""
        return len(self.trials) == 1 and not self.ended


@dataclass(frozen=True)
class Curve:
    """Accuracy by epoch of one trained model (fractions on held-out samples), and its time."""

    subject: str
    stage: str
    accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Report:
    """Everything that a bundle's report says, verdict first.

    `shipped` is the bundle's engine; where a gate failed, the one that would have been shipped.
    `doubts` are what may make the result mean something else than it says, `notes` what else a
    reader should know.
    """

    recipe: str
    version: str
    target: str
    passed: bool
    headline: str
    shipped: str
    baseline: str
    batch: int
    device: Mapping[str, str]
    gates: tuple[GateRow, ...]
    accuracy: tuple[AccuracyRow, ...]
    latency: tuple[LatencyRow, ...]
    candidates: tuple[CandidateRow, ...]
    layers: tuple[LayerRow, ...]
    certificates: tuple[CertificateRow, ...]
    stages: tuple[StageRow, ...]
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    engine_bytes: int | None = None
    searches: tuple[SearchRow, ...] = ()
    others: tuple[OtherPlan, ...] = ()

    def accuracy_of(self, subject: str) -> AccuracyRow | None:
        """The row of a subject, where it has one."""
        return next((row for row in self.accuracy if row.subject == subject), None)

    def called(self, row: AccuracyRow) -> str:
        """A row's subject in words: nothing ships where a gate failed."""
        return self.shipped if row.subject == SHIPPED_ENGINE and not self.passed else row.subject

    def latency_of(self, subject: str, mode: LatencyMode, batch: int) -> tuple[LatencyRow, ...]:
        """The rows of one case: one, or an estimate and what the device has yet to measure."""
        wanted = (subject, mode, batch)
        return tuple(r for r in self.latency if (r.subject, r.mode, r.batch) == wanted)

    def changed(self) -> tuple[LayerRow, ...]:
        """The layers that the builder runs in another precision than planned."""
        return self._judged(LayerVerdict.CHANGED)

    def unknown(self) -> tuple[LayerRow, ...]:
        """The layers whose built precision the builder does not tell."""
        return self._judged(LayerVerdict.UNKNOWN)

    def _judged(self, verdict: LayerVerdict) -> tuple[LayerRow, ...]:
        return tuple(row for row in self.layers if row.verdict is verdict)
