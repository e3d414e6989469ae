"""Which candidate ships: the fastest that passes every gate; never one that is worse than float.

Candidates are ordered by their latency, forward only, at the recipe's batch. One with INT8 in it
comes before the float engines only where it is faster beyond the noise of the measurement: where
the whole 95 % interval of the ratio to the fastest float engine lies above 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rtc.compiler import gates
from rtc.compiler.appraise import Appraisal, Appraised
from rtc.compiler.building import Candidate, Missing
from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.evidence import Estimated, Measured
from rtc.compiler.recipe import Gates
from rtc.compiler.report.model import CandidateRow, GateRow, LatencyRow


@dataclass(frozen=True)
class Choice:
    """The candidate that ships, its gates, and a row for every candidate, fastest first."""

    candidate: Candidate
    appraisal: Appraisal
    gates: tuple[GateRow, ...]
    rows: tuple[CandidateRow, ...]

    @property
    def passed(self) -> bool:
        return gates.all_passed(self.gates)


def choose(
    asked: Gates,
    built: Sequence[Candidate],
    missing: Sequence[Missing],
    *,
    appraised: Appraised,
    batch: int,
) -> Choice:
    """Take the fastest candidate that passes; where none does, the one that fails fewest gates.

    Raises:
        BuilderError: no candidate came through the measurement.
    """
    ranked = sorted(
        (each for each in built if each.name in appraised.of),
        key=lambda each: (
            _is_doubtful(each, appraised.of[each.name]),
            _speed(appraised.of[each.name], batch),
            each.name,
        ),
    )
    if not ranked:
        told = (f"{name}: {reason}" for name, reason in appraised.failed.items())
        what = "every engine that was built failed when it was measured"
        raise BuilderError(what, seen="; ".join(told), id="no-candidate")
    judged = {each.name: _judge(asked, each, appraised, batch) for each in ranked}
    shipped = min(ranked, key=lambda each: _failures(judged[each.name]))
    rows = [_row(each, shipped, judged, appraised, batch) for each in ranked]
    rows += [
        CandidateRow(
            each.name, each.backend, str(each.variant), None, None, each.state, each.reason
        )
        for each in missing
    ]
    rows += [
        CandidateRow(each.name, each.backend, str(each.variant), None, None, "failed", reason)
        for each in built
        if (reason := appraised.failed.get(each.name))
    ]
    return Choice(shipped, appraised.of[shipped.name], judged[shipped.name], tuple(rows))


def find(rows: Sequence[LatencyRow], mode: str, batch: int) -> LatencyRow:
    """The row of a mode at a batch; an estimate or a measurement before a pending one."""
    fitting = [row for row in rows if row.mode == mode and row.batch == batch]
    known = [row for row in fitting if isinstance(row.evidence, (Measured, Estimated))]
    return (known or fitting)[0]


def _speed(appraisal: Appraisal, batch: int) -> float:
    evidence = find(appraisal.latency, "forward", batch).evidence
    return evidence.value if isinstance(evidence, (Measured, Estimated)) else float("inf")


def _is_doubtful(candidate: Candidate, appraisal: Appraisal) -> bool:
    """Whether a candidate with INT8 may be no faster than float."""
    ratio = appraisal.over_float
    return not candidate.is_float and ratio is not None and ratio.low <= 1


def _judge(
    asked: Gates, candidate: Candidate, appraised: Appraised, batch: int
) -> tuple[GateRow, ...]:
    appraisal = appraised.of[candidate.name]
    found = gates.Findings(
        engine=appraisal.accuracy,
        float_model=appraised.float_model,
        latency=find(appraisal.latency, "end-to-end", batch),
        layers=candidate.layers,
    )
    return gates.judge(asked, found)


def _failures(rows: Sequence[GateRow]) -> int:
    return sum(row.passed is False for row in rows)


def _row(
    candidate: Candidate,
    shipped: Candidate,
    judged: Mapping[str, Sequence[GateRow]],
    appraised: Appraised,
    batch: int,
) -> CandidateRow:
    appraisal = appraised.of[candidate.name]
    if candidate is shipped:
        state, reason = "shipped", gates.reasons(judged[candidate.name])
    elif _failures(judged[candidate.name]):
        state, reason = "refused", gates.reasons(judged[candidate.name])
    else:
        state, reason = "slower", _doubt(candidate, appraisal)
    return CandidateRow(
        name=candidate.name,
        backend=candidate.backend,
        variant=str(candidate.variant),
        latency=find(appraisal.latency, "forward", batch).evidence,
        top1=appraisal.accuracy.top1,
        state=state,
        reason=reason,
    )


def _doubt(candidate: Candidate, appraisal: Appraisal) -> str:
    ratio = appraisal.over_float
    if ratio is None or not _is_doubtful(candidate, appraisal):
        return ""
    return (
        f"not surely faster than the fastest float engine: {ratio.value:.2f}×"
        f" (95 % interval {ratio.low:.2f} to {ratio.high:.2f})"
    )
