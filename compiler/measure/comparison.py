"""What is timed, and what came of it: subjects, cases, series of times, and rows for a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rtc.compiler.core.arrays import Float64Array
from rtc.compiler.core.evidence import Measured
from rtc.compiler.core.intervals import Interval
from rtc.compiler.core.results import LatencyRow
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.core.unit import Level, Unit
from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.measure import statistics
from rtc.compiler.measure.fidelity import Probe

MODES = tuple(LatencyMode)
ENOUGH = 100  # timings below which a row is noted
STEADY = 0.025  # coefficient of variation above which trtexec warns, too
DRAWN = 200  # timings kept for the picture


@dataclass(frozen=True)
class Subject:
    """Who is measured: a name, and what `sandbox.Worker` needs to start it.

    `probe`: what an engine is held to at every batch before anything is asked of it.
    """

    name: str
    entry: str
    files: Mapping[str, bytes]
    args: Mapping[str, Any]
    memory_gb: float | None = None
    probe: Probe | None = None


def engine_subject(
    name: str, backend: str, engine: bytes, request: BuildRequest, probe: Probe | None = None
) -> Subject:
    """An engine in the runtime that built it."""
    from rtc.compiler.documents.build_json import REQUEST

    asked = REQUEST.dump_python(request, mode="json")
    args = {"backend": backend, "request": asked}
    entry, files = "rtc.compiler.measure.worker:engine", {"engine": engine}
    return Subject(name, entry, files, args, probe=probe)


def float_subject(name: str, unit: Unit, threads: int = 0) -> Subject:
    """A float unit: PyTorch eager, or unoptimised ONNX Runtime for a unit at the ONNX level."""
    entry = "eager" if unit.level is Level.TORCH else "reference"
    files, args = unit.to_files(), {"threads": threads}
    return Subject(name, f"rtc.compiler.measure.worker:{entry}", files, args)


@dataclass(frozen=True)
class Case:
    """What is timed at a time: a mode at a batch."""

    mode: LatencyMode
    batch: int


@dataclass
class Series:
    """Timings of one subject in one case: its first inference there, then a slice each round.

    Milliseconds per batch; `last` are the latest, counted or not.
    """

    first: float
    rounds: list[Float64Array] = field(default_factory=list)
    last: Float64Array = field(default_factory=lambda: np.zeros(0))

    @property
    def all(self) -> Float64Array:
        """The times of all rounds in one array."""
        return np.concatenate(self.rounds)


@dataclass(frozen=True)
class Comparison:
    """Timings of all subjects that came through, by case and subject; equal rounds in each case."""

    series: Mapping[Case, Mapping[str, Series]]

    def rows(self, baseline: str, where: str) -> tuple[LatencyRow, ...]:
        """A row for each subject in each case; speedups are against `baseline` where it is there.

        `where` names the machine. The evidence is the median, between the 5th and 95th percentile.
        """
        return tuple(
            _row(
                subject,
                case,
                one,
                where=where,
                ratio=self.speedup(subject, baseline, case) if baseline in them else None,
            )
            for case, them in self.series.items()
            for subject, one in them.items()
        )

    def measured(self, subject: str, case: Case, where: str) -> Measured:
        """A subject's median in a case, between its 5th and 95th percentile."""
        return _evidence(statistics.summarise(self.series[case][subject].all), where)

    def speedup(self, subject: str, baseline: str, case: Case) -> Interval:
        """How many times faster than the baseline, round by round, with the 95 % interval."""
        them = self.series[case]
        return statistics.ratio_by_rounds(them[baseline].rounds, them[subject].rounds)

    def notes(self) -> tuple[str, ...]:
        """What a reader must know of how well these timings stand."""
        lines = {
            f"{subject}, {case.mode}, batch {case.batch}": statistics.summarise(one.all)
            for case, them in self.series.items()
            for subject, one in them.items()
        }
        few = {at: one.count for at, one in lines.items() if one.count < ENOUGH}
        wide = {at: one.variation for at, one in lines.items() if one.variation > STEADY}
        notes = []
        if few:
            at = min(few, key=few.__getitem__)
            notes.append(
                f"Fewer than {ENOUGH} timings in {len(few)} of {len(lines)} series; "
                f"the fewest are {few[at]} ({at}). More seconds of measuring give more."
            )
        if wide:
            at = max(wide, key=wide.__getitem__)
            notes.append(
                f"Unsteady timing in {len(wide)} of {len(lines)} series: the coefficient of "
                f"variation is above {100 * STEADY:g} %, at most {100 * wide[at]:.0f} % ({at}). "
                "Other work on this machine, or its clock, disturbs it."
            )
        return tuple(notes)


def _evidence(summary: statistics.Summary, where: str) -> Measured:
    return Measured(summary.median, "ms", where, summary.count, summary.low, summary.high)


def _row(
    subject: str, case: Case, series: Series, *, where: str, ratio: Interval | None
) -> LatencyRow:
    summary = statistics.summarise(series.all)
    return LatencyRow(
        subject=subject,
        mode=case.mode,
        batch=case.batch,
        evidence=_evidence(summary, where),
        fps=1e3 * case.batch / summary.median,
        speedup=None if ratio is None else ratio.value,
        speedup_interval=None if ratio is None else (ratio.low, ratio.high),
        percentiles=summary.percentiles,
        samples_ms=tuple(float(f"{t:.4g}") for t in statistics.thin(series.all, DRAWN)),
        statistics={
            "first": series.first,
            "mean": summary.mean,
            "std": summary.std,
            "min": summary.minimum,
            "max": summary.maximum,
            "outliers": summary.outliers,
        },
    )
