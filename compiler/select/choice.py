"""Which candidate ships: the fastest that passes every gate; never one that is worse than float.

Or, where `precision.search.objective` asks for it, the most accurate one that passes, the gate of
latency included.

Candidates are ordered by their speed, forward only, at the recipe's batch: by the measured ratio to
the fastest float engine, which other work on the machine disturbs least; off the device, by their
estimates. One with INT8 in it comes before the float engines only where it is faster beyond doubt:
where the whole 95 % interval of the measured ratio to the fastest float engine lies above 1, or its
estimate is the fastest float engine's divided by `MARGIN` or less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rtc.compiler.building.builder import Candidate
from rtc.compiler.candidates.offer import Missing
from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.evidence import Estimated, Measured
from rtc.compiler.core.results import CandidateRow, GateRow, LatencyRow
from rtc.compiler.core.verdicts import CandidateState, LatencyMode
from rtc.compiler.recipe.sections import Gates
from rtc.compiler.select import gates
from rtc.compiler.select.measuring import Appraisal, Appraised

MARGIN = 1.1  # how much faster an estimate must be: a roofline does not tell closer ones apart


@dataclass(frozen=True)
class Selection:
    """The candidate that ships, its gates, and a row for every candidate, fastest first.

    Where a gate failed nothing ships: then it is the one that would have.

    `others` are the candidates that were built and do not ship.
    """

    candidate: Candidate
    appraisal: Appraisal
    gates: tuple[GateRow, ...]
    rows: tuple[CandidateRow, ...]
    others: tuple[Candidate, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every gate is passed."""
        return gates.all_passed(self.gates)


def choose(
    asked: Gates,
    built: Sequence[Candidate],
    missing: Sequence[Missing],
    *,
    appraised: Appraised,
    batch: int,
    accurate: bool = False,
) -> Selection:
    """Take the best candidate that passes; where none does, the one that fails fewest gates.

    The best is the fastest or, where `accurate`, the one that agrees with the float model most.

    Raises:
        BuilderError: no candidate came through the measurement.
    """
    ranked = _ranked(built, appraised, batch)
    if not ranked:
        reasons = (f"{name}: {reason}" for name, reason in appraised.failed.items())
        what = "every engine that was built failed when it was measured"
        raise BuilderError(what, seen="; ".join(reasons), id="no-candidate")
    judged = {each.name: _judge(asked, each, appraised, batch) for each in ranked}
    lost = {each.name: _lost(appraised.of[each.name]) if accurate else () for each in ranked}
    shipped = min(ranked, key=lambda each: (_failures(judged[each.name]), lost[each.name]))
    less_accurate = {name for name in lost if lost[name] > lost[shipped.name]}
    doubts = {} if accurate else _doubts(ranked, appraised, batch)
    rows = [
        _row(
            each,
            appraised.of[each.name],
            batch,
            *_outcome(
                judged[each.name],
                shipped=each is shipped,
                less_accurate=each.name in less_accurate,
                doubt=doubts.get(each.name, ""),
            ),
        )
        for each in ranked
    ]
    return Selection(
        candidate=shipped,
        appraisal=appraised.of[shipped.name],
        gates=judged[shipped.name],
        rows=(*rows, *_without_figures(built, missing, appraised)),
        others=tuple(candidate for candidate in built if candidate is not shipped),
    )


def _ranked(built: Sequence[Candidate], appraised: Appraised, batch: int) -> list[Candidate]:
    """The candidates that were measured, the fastest first; one in doubt comes after the others."""
    scored = [candidate for candidate in built if candidate.name in appraised.of]
    doubts, costs = _doubts(scored, appraised, batch), _costs(appraised.of, batch)
    return sorted(scored, key=lambda each: (each.name in doubts, costs[each.name], each.name))


def _outcome(
    judged: Sequence[GateRow], *, shipped: bool, less_accurate: bool, doubt: str
) -> tuple[CandidateState, str]:
    """What became of a candidate, and why."""
    if _failures(judged):  # of the best as well, where none passes: then nothing ships
        return CandidateState.REFUSED, gates.reasons(judged)
    if shipped:
        return CandidateState.SHIPPED, ""
    return CandidateState.LESS_ACCURATE if less_accurate else CandidateState.SLOWER, doubt


def _row(
    candidate: Candidate, appraisal: Appraisal, batch: int, state: CandidateState, reason: str
) -> CandidateRow:
    return CandidateRow(
        name=candidate.name,
        backend=candidate.backend,
        variant=str(candidate.variant),
        latency=find(appraisal.latency, LatencyMode.FORWARD, batch).evidence,
        top1=appraisal.accuracy.top1,
        state=state,
        reason=reason,
        agreement=appraisal.accuracy.agreement,
    )


def _without_figures(
    built: Sequence[Candidate], missing: Sequence[Missing], appraised: Appraised
) -> Iterator[CandidateRow]:
    """Rows of what was not built, then of what was built and could not be measured."""
    for each in missing:
        yield CandidateRow(
            each.name, each.backend, str(each.variant), None, None, each.state, each.reason
        )
    for one in built:
        if reason := appraised.failed.get(one.name):
            yield CandidateRow(
                one.name, one.backend, str(one.variant), None, None, CandidateState.FAILED, reason
            )


def find(rows: Sequence[LatencyRow], mode: LatencyMode, batch: int) -> LatencyRow:
    """The row of a mode at a batch; an estimate or a measurement before a pending one."""
    fitting = [row for row in rows if row.mode == mode and row.batch == batch]
    known = [row for row in fitting if isinstance(row.evidence, (Measured, Estimated))]
    return (known or fitting)[0]


def _costs(of: Mapping[str, Appraisal], batch: int) -> dict[str, float]:
    """What candidates are ordered by: time in times of the fastest float engine's, or latency."""
    ratios = {name: each.over_float for name, each in of.items() if each.over_float is not None}
    if len(ratios) == len(of):
        return {name: 1 / ratio.value for name, ratio in ratios.items()}
    return {name: _latency(each, batch) for name, each in of.items()}


def _latency(appraisal: Appraisal, batch: int) -> float:
    evidence = find(appraisal.latency, LatencyMode.FORWARD, batch).evidence
    return evidence.value if isinstance(evidence, (Measured, Estimated)) else float("inf")


def _doubts(candidates: Sequence[Candidate], appraised: Appraised, batch: int) -> dict[str, str]:
    """Why a candidate with INT8 may be no faster than float, by name."""
    floats = [
        _latency(appraised.of[candidate.name], batch)
        for candidate in candidates
        if candidate.plan.is_float
    ]
    yardstick = min(floats, default=float("inf"))
    reasons = {
        candidate.name: _doubt(appraised.of[candidate.name], yardstick, batch)
        for candidate in candidates
        if not candidate.plan.is_float
    }
    return {name: reason for name, reason in reasons.items() if reason}


def _doubt(appraisal: Appraisal, yardstick: float, batch: int) -> str:
    ratio = appraisal.over_float
    if ratio is not None:
        speedup = f"{ratio.value:.2f}× (95 % interval {ratio.low:.2f} to {ratio.high:.2f})"
        return (
            "" if ratio.low > 1 else f"not surely faster than the fastest float engine: {speedup}"
        )
    evidence = find(appraisal.latency, LatencyMode.FORWARD, batch).evidence
    if isinstance(evidence, Estimated) and evidence.value * MARGIN > yardstick:
        return (
            f"an estimated {yardstick / evidence.value:.2f}× the speed of the fastest float engine:"
            f" below {MARGIN:g}× an estimate does not say which is faster"
        )
    return ""


def _judge(
    asked: Gates, candidate: Candidate, appraised: Appraised, batch: int
) -> tuple[GateRow, ...]:
    appraisal = appraised.of[candidate.name]
    findings = gates.Findings(
        engine=appraisal.accuracy,
        float_model=appraised.float_model,
        latency=find(appraisal.latency, LatencyMode.END_TO_END, batch),
        layers=candidate.layers,
        incoming=appraised.incoming,
    )
    return gates.judge(asked, findings)


def _lost(appraisal: Appraisal) -> tuple[float, float]:
    """What a candidate gives away: of the agreement with the float model, then of top-1."""
    measured = (appraisal.accuracy.agreement, appraisal.accuracy.top1)
    agreement, top1 = (each.value if isinstance(each, Measured) else 0.0 for each in measured)
    return 1 - agreement, 1 - top1


def _failures(rows: Sequence[GateRow]) -> int:
    return sum(row.passed is False for row in rows)
