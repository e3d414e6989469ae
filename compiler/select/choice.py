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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rtc.compiler.building.builder import Candidate
from rtc.compiler.candidates.offer import Missing
from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.evidence import Estimated, Measured
from rtc.compiler.core.results import CandidateRow, GateRow, LatencyRow
from rtc.compiler.recipe.schema import Gates
from rtc.compiler.select import gates
from rtc.compiler.select.measuring import Appraisal, Appraised

MARGIN = 1.1  # how much faster an estimate must be: a roofline does not tell closer ones apart


@dataclass(frozen=True)
class Choice:
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
        return gates.all_passed(self.gates)


def choose(
    asked: Gates,
    built: Sequence[Candidate],
    missing: Sequence[Missing],
    *,
    appraised: Appraised,
    batch: int,
    accurate: bool = False,
) -> Choice:
    """Take the best candidate that passes; where none does, the one that fails fewest gates.

    The best is the fastest or, where `accurate`, the one that agrees with the float model most.

    Raises:
        BuilderError: no candidate came through the measurement.
    """
    scored = [each for each in built if each.name in appraised.of]
    doubts, cost = _doubts(scored, appraised, batch), _costs(appraised.of, batch)
    ranked = sorted(
        scored,
        key=lambda each: (
            each.name in doubts,
            cost[each.name],
            each.name,
        ),
    )
    if not ranked:
        told = (f"{name}: {reason}" for name, reason in appraised.failed.items())
        what = "every engine that was built failed when it was measured"
        raise BuilderError(what, seen="; ".join(told), id="no-candidate")
    judged = {each.name: _judge(asked, each, appraised, batch) for each in ranked}
    lost = {each.name: _lost(appraised.of[each.name]) if accurate else () for each in ranked}
    shipped = min(ranked, key=lambda each: (_failures(judged[each.name]), lost[each.name]))
    rows = [
        _row(
            each,
            shipped,
            judged[each.name],
            appraised.of[each.name],
            batch=batch,
            doubt="" if accurate else doubts.get(each.name, ""),
            otherwise="less accurate" if lost[each.name] > lost[shipped.name] else "slower",
        )
        for each in ranked
    ]
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
    others = tuple(each for each in built if each is not shipped)
    return Choice(shipped, appraised.of[shipped.name], judged[shipped.name], tuple(rows), others)


def find(rows: Sequence[LatencyRow], mode: str, batch: int) -> LatencyRow:
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
    evidence = find(appraisal.latency, "forward", batch).evidence
    return evidence.value if isinstance(evidence, (Measured, Estimated)) else float("inf")


def _doubts(candidates: Sequence[Candidate], appraised: Appraised, batch: int) -> dict[str, str]:
    """Why a candidate with INT8 may be no faster than float, by name."""
    floats = [_latency(appraised.of[each.name], batch) for each in candidates if each.plan.is_float]
    yardstick = min(floats, default=float("inf"))
    found = {
        each.name: _doubt(appraised.of[each.name], yardstick, batch)
        for each in candidates
        if not each.plan.is_float
    }
    return {name: reason for name, reason in found.items() if reason}


def _doubt(appraisal: Appraisal, yardstick: float, batch: int) -> str:
    ratio = appraisal.over_float
    if ratio is not None:
        found = f"{ratio.value:.2f}× (95 % interval {ratio.low:.2f} to {ratio.high:.2f})"
        return "" if ratio.low > 1 else f"not surely faster than the fastest float engine: {found}"
    evidence = find(appraisal.latency, "forward", batch).evidence
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
    found = gates.Findings(
        engine=appraisal.accuracy,
        float_model=appraised.float_model,
        latency=find(appraisal.latency, "end-to-end", batch),
        layers=candidate.layers,
        incoming=appraised.incoming,
    )
    return gates.judge(asked, found)


def _lost(appraisal: Appraisal) -> tuple[float, float]:
    """What a candidate gives away: of the agreement with the float model, then of top-1."""
    found = (appraisal.accuracy.agreement, appraisal.accuracy.top1)
    agreement, top1 = (each.value if isinstance(each, Measured) else 0.0 for each in found)
    return 1 - agreement, 1 - top1


def _failures(rows: Sequence[GateRow]) -> int:
    return sum(row.passed is False for row in rows)


def _row(
    candidate: Candidate,
    shipped: Candidate,
    judged: Sequence[GateRow],
    appraisal: Appraisal,
    *,
    batch: int,
    doubt: str,
    otherwise: str,
) -> CandidateRow:
    if _failures(judged):  # of the best as well, where none passes: then nothing ships
        state, reason = "refused", gates.reasons(judged)
    elif candidate is shipped:
        state, reason = "shipped", ""
    else:
        state, reason = otherwise, doubt
    return CandidateRow(
        name=candidate.name,
        backend=candidate.backend,
        variant=str(candidate.variant),
        latency=find(appraisal.latency, "forward", batch).evidence,
        top1=appraisal.accuracy.top1,
        state=state,
        reason=reason,
        agreement=appraisal.accuracy.agreement,
    )
