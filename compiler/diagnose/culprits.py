"""The layers that break a metric: those that must be put back to float for it to hold.

What is tested is a set of layers: with exactly these put back, and everything that follows them
decided anew, the candidate is written, built and run on the real runtime, and the metric is
measured on all samples at once. The whole candidate fails and everything put back passes; delta
debugging (`ddmin`) finds a set between the two that passes and from which no layer can be taken
away. How noisy each layer is by the plan orders the search and has no say in the verdict. The
recipe's repairs are made again for every test, as they are when the patch is in the recipe.

INT8 layers are put back to the runtime's half type, or to float32 where it has none; where the
candidate has no INT8, half layers are put back to float32. Only what quantises is on offer: layers
with weights and joins, not activations, which follow them. Sums behind a float one are float as
well, so a damaged sum can be freed at any layer that leads to it; the last that frees it is named:
nothing more than needed then runs in float.

A damaged tensor is one that is read or written in integers, so the layer that makes it and those
that read it are named together: with one of them left, it would still be quantised.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import BuilderError, DataError, GateError, ModelError
from rtc.compiler.core.evidence import Measured, to_dict
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.progress import Progress, silent
from rtc.compiler.diagnose.delta_debugging import Holds, minimal
from rtc.compiler.diagnose.metric import Metric
from rtc.compiler.diagnose.session import Session
from rtc.compiler.diagnose.suspects import Suspect, put_back, suspects_of
from rtc.compiler.search.workbench import Runtime


@dataclass(frozen=True)
class Culprit:
    """A layer to put back: its ONNX name, its operator, what it was planned in, what it gets.

    `snr_db` is the layer's own signal-to-noise ratio by the plan; None where there is none.
    """

    layer: str
    op: str
    planned: Precision
    pin: Precision
    snr_db: float | None


@dataclass(frozen=True)
class Culprits:
    """What was found.

    Attributes:
        candidate: "openvino int8 for cpu".
        metric: what has to hold, as text.
        before: the metric of the candidate as it is planned.
        after: the metric with `layers` put back; `before` where there is nothing to put back.
        surely_broken: whether all of the 95 % interval of `before` lies beyond the limit.
        layers: in graph order; empty where the metric holds as planned.
        offered: how many layers there were to choose from.
        tests: graphs that were built and run.
        seconds: wall time.
    """

    candidate: str
    metric: str
    before: Measured
    after: Measured
    surely_broken: bool
    layers: tuple[Culprit, ...]
    offered: int
    tests: int
    seconds: float

    @property
    def patch(self) -> str:
        """What to merge into the recipe, as YAML; "" where there is nothing to put back."""
        import yaml

        if not self.layers:
            return ""
        pin = {layer.layer: layer.pin.value for layer in self.layers}
        text: str = yaml.safe_dump(
            {"precision": {"pin": pin}}, sort_keys=False, allow_unicode=True, width=math.inf
        )
        return text

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        layers = [
            {**asdict(layer), "planned": layer.planned.value, "pin": layer.pin.value}
            for layer in self.layers
        ]
        figures = {"before": to_dict(self.before), "after": to_dict(self.after)}
        return {**asdict(self), **figures, "layers": layers, "patch": self.patch}


def culprits(
    session: Session, metric: Metric, split: Split, progress: Progress = silent
) -> Culprits:
    """Find layers with which put back the metric holds, and without any one of them does not.

    Where several such sets exist, another may be smaller: only all sets of a size would tell.

    Args:
        session: the candidate; its runtime must run here.
        metric: what has to hold.
        split: the samples of every test.
        progress: told of every test.

    Raises:
        DataError: no samples.
        RecipeError: nothing is planned below float, or the runtime has one float type for all.
        GateError: the metric does not hold with everything put back ("not-precision"): the fault
            is elsewhere.
        ModelError, BuilderError: the runtime does not build the candidate as it is planned.
    """
    begun = time.perf_counter()
    if not len(split):
        raise DataError("there are no samples to test with", where=split.name, id="no-samples")
    suspects = suspects_of(session)
    with session.runtime(split) as runtime:
        trials = _Trials(session, metric, split, runtime, len(suspects), progress)
        before = trials.measure(())
        broken = not metric.holds(before.value)
        names: tuple[str, ...] = ()
        if broken:
            trials.check_all(tuple(suspects))
            names = minimal(tuple(suspects), trials.holds)
            names = minimal(_latest(names, suspects, trials.holds), trials.holds)
        after = trials.measure(names)
    return Culprits(
        candidate=_candidate(session),
        metric=str(metric),
        before=before,
        after=after,
        surely_broken=metric.surely_fails(before),
        layers=tuple(_culprit(session, name) for name in session.plan.layers if name in names),
        offered=len(suspects),
        tests=len(trials.measured),
        seconds=time.perf_counter() - begun,
    )


def _latest(
    names: tuple[str, ...], suspects: Mapping[str, Suspect], holds: Holds[str]
) -> tuple[str, ...]:
    """The same set with the last join behind each layer in its place that does as well."""
    for name in names:
        for join in reversed(suspects[name].joins):
            changed = tuple(join if each == name else each for each in names)
            if join not in names and holds(changed):
                names = changed
                break
    return names


def _candidate(session: Session) -> str:
    return f"{session.backend.name} {session.plan.variant} for {session.plan.target}"


def _culprit(session: Session, name: str) -> Culprit:
    planned = session.plan.layers[name]
    return Culprit(name, planned.op, planned.precision, put_back(session), planned.snr_db)


@dataclass
class _Trials:
    """Tests of sets of layers put back, each made once."""

    session: Session
    metric: Metric
    split: Split
    runtime: Runtime
    expected: int  # tests, roughly
    progress: Progress
    measured: dict[frozenset[str], Measured | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from rtc.compiler.measure.provenance import device
        from rtc.compiler.measure.reference import reference_logits

        self.floats: Array = reference_logits(self.session.model.onnx.proto, self.split)
        unit = self.session.job.incoming
        self.incoming = reference_logits(unit.onnx.proto, self.split) if unit else None
        kind = self.session.job.profile.kind
        backend = self.session.backend
        self.where = f"{backend.name} {backend.available().version} on {device(kind)}"

    def measure(self, layers: Sequence[str]) -> Measured:
        """The metric with these layers put back.

        Raises:
            ModelError, BuilderError: the runtime does not build that.
        """
        known = self.measured.get(frozenset(layers))
        if known is None:
            plan = self.session.plan
            if layers:
                plan = self.session.replanned(dict.fromkeys(layers, put_back(self.session)))
            self.runtime.build(self.session.graph(plan))
            logits = self.runtime.logits()
            known = self.metric.measure(
                self.floats, logits, self.split.labels, self.where, incoming=self.incoming
            )
            self.measured[frozenset(layers)] = known
        return known

    def holds(self, layers: Sequence[str]) -> bool:
        """Whether the metric holds with these layers put back; what cannot be built does not."""
        key = frozenset(layers)
        if key not in self.measured:
            done = len(self.measured)
            self.progress(done, max(self.expected, done + 1), f"{len(layers)} layers put back")
            try:
                self.measure(layers)
            except (ModelError, BuilderError):
                self.measured[key] = None
        measured = self.measured[key]
        return measured is not None and self.metric.holds(measured.value)

    def check_all(self, suspects: Sequence[str]) -> None:
        """Refuse to search where putting everything back does not help.

        Raises:
            GateError: it does not.
        """
        measured = self.measure(suspects)
        if self.metric.holds(measured.value):
            return
        from rtc.compiler.report.figures import amount

        half = any(d.precision is Precision.HALF for d in self.session.plan.layers.values())
        fault = "INT8" if half else "precision"
        raise GateError(
            f"with every layer put back the metric still fails: the fault is not one of {fault}",
            where=_candidate(self.session),
            seen=amount(measured.value, measured.unit),
            expected=str(self.metric),
            fix="try --variant half" if half else "compare the engine in fp32 with the float model",
            id="not-precision",
        )
