"""Gates: what a recipe asks of an engine before it may become `latest`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rtc.compiler.building.contract import changed, unknown
from rtc.compiler.core import limits
from rtc.compiler.core.evidence import Evidence, Measured
from rtc.compiler.core.results import AccuracyRow, GateRow, LatencyRow, LayerRow
from rtc.compiler.measure.accuracy import better_than_guessing
from rtc.compiler.recipe.sections import Gates


@dataclass(frozen=True)
class Findings:
    """What the gates look at, for one engine.

    A drop of top-1 counts from the model that came in, where graph passes changed what it computes:
    `incoming`; elsewhere that is what the float model computes.
    `latency` is the engine's end-to-end row at the recipe's batch; a gate on it waits while that
    row is estimated or pending, since an estimate can neither pass nor fail anything.
    """

    engine: AccuracyRow
    float_model: AccuracyRow
    latency: LatencyRow
    layers: Sequence[LayerRow]
    incoming: AccuracyRow | None = None


def judge(gates: Gates, found: Findings) -> tuple[GateRow, ...]:
    """A row for each gate that the recipe names; `passed` is None while a figure is pending."""
    rows = []
    if gates.chance is not None:
        rows.append(_chance(gates.chance, found))
    if gates.top1 is not None:
        rows.append(_top1(gates.top1, found.engine))
    if gates.loss is not None:
        rows.append(_loss(gates.loss, found.engine))
    if gates.top1_drop is not None:
        rows.append(_top1_drop(gates.top1_drop, found))
    if gates.parity is not None:
        rows.append(_parity(gates.parity, found))
    if gates.latency_ms is not None:
        rows.append(_latency(gates.latency_ms, found.latency))
    if gates.fps is not None:
        rows.append(_fps(gates.fps, found.latency))
    if gates.contract == "strict":
        rows.append(_contract(found.layers))
    return tuple(rows)


def all_passed(rows: Iterable[GateRow]) -> bool:
    """Whether no gate failed; a gate that waits for a device has not failed."""
    return all(row.passed is not False for row in rows)


def reasons(rows: Iterable[GateRow]) -> str:
    """The failed gates, in one line: what was found, and what was asked."""
    failed = [row for row in rows if row.passed is False]
    return "; ".join(f"{row.name}: {row.reason} (asked: {row.asked})" for row in failed)


def _value(evidence: Evidence | None) -> float | None:
    return evidence.value if isinstance(evidence, Measured) else None


def _chance(least: float, findings: Findings) -> GateRow:
    """Of the float model and of the engine; the row tells of the first that guesses."""
    rows = [
        _chance_of(least, model, whose)
        for model, whose in (
            (findings.float_model, "the float model"),
            (findings.engine, "the engine"),
        )
    ]
    return next((row for row in rows if not row.passed), rows[0])


def _chance_of(least: float, model: AccuracyRow, whose: str) -> GateRow:
    beyond = f" by {least * 100:.2f} pt" if least else ""
    asked = f"the float model and the engine beat guessing{beyond}"
    better = better_than_guessing(model, least)
    if better is None:
        reason = "too few samples, or all of one class: guessing would look the same"
        return GateRow("chance", asked, "not to be told", True, reason, model.top1)
    assert isinstance(model.top1, Measured)
    assert isinstance(model.guess, Measured)
    assert model.guess.high is not None
    top1, guess = (f"{each.value * 100:.2f} %" for each in (model.top1, model.guess))
    comparison = f"{top1} against {guess}, at most {model.guess.high * 100:.2f} %"
    reason = "" if better else f"{whose}'s top-1, {top1}, is not surely above guessing's, {guess}"
    return GateRow("chance", asked, comparison, better, reason, model.top1)


def _top1(least: float, engine: AccuracyRow) -> GateRow:
    asked, value = f"top-1 ≥ {least * 100:.2f} %", _value(engine.top1)
    if value is None:
        return GateRow("top1", asked, "not measured", passed=False, reason="not measured")
    passed = limits.at_least(value, least)
    percent = f"{value * 100:.2f} %"
    return GateRow(
        "top1", asked, percent, passed, "" if passed else f"it is {percent}", engine.top1
    )


def _loss(most: float, engine: AccuracyRow) -> GateRow:
    asked, value = f"loss ≤ {most:g} nats", _value(engine.loss)
    if value is None:
        return GateRow("loss", asked, "not measured", passed=False, reason="not measured")
    nats = f"{value:.4f} nats"
    passed = value <= most
    return GateRow("loss", asked, nats, passed, "" if passed else f"it is {nats}", engine.loss)


def _top1_drop(limit: float, findings: Findings) -> GateRow:
    first = findings.incoming or findings.float_model
    before, after = _value(first.top1), _value(findings.engine.top1)
    asked = f"drop ≤ {limit * 100:.2f} pt" + (
        f" from the {first.subject}" if findings.incoming else ""
    )
    if before is None or after is None:
        return GateRow("top1_drop", asked, "not measured", passed=False, reason="not measured")
    drop = before - after
    passed = limits.at_most(drop, limit)
    return GateRow(
        "top1_drop",
        asked,
        f"{drop * 100:+.2f} pt ({before * 100:.2f} → {after * 100:.2f} %)",
        passed=passed,
        reason=_doubt(limit, findings) if passed else f"top-1 fell by {drop * 100:.2f} points",
        evidence=findings.engine.top1,
    )


def _doubt(limit: float, findings: Findings) -> str:
    """What too few samples leave open: top-1 can fall by the share that changes its class."""
    agreement = findings.engine.agreement
    if not isinstance(agreement, Measured) or agreement.low is None or 1 - agreement.low <= limit:
        return ""
    return (
        f"{agreement.samples:,} samples are few: with 95 % confidence no more than"
        f" {100 * (1 - agreement.low):.2f} % change their class"
    )


def _parity(limit: float, findings: Findings) -> GateRow:
    agreement = _value(findings.engine.agreement)
    asked = f"agreement ≥ {limit * 100:.2f} %"
    if agreement is None:
        return GateRow("parity", asked, "not measured", passed=False, reason="not measured")
    passed = limits.at_least(agreement, limit)
    return GateRow(
        "parity",
        asked,
        f"{agreement * 100:.2f} % of samples",
        passed=passed,
        reason="" if passed else f"agrees with the float model on {agreement * 100:.2f} % only",
        evidence=findings.engine.agreement,
    )


def _latency(limit: float, row: LatencyRow) -> GateRow:
    asked = f"end-to-end ≤ {limit:g} ms at batch {row.batch}"
    value = _value(row.evidence)
    if value is None:
        return _waits("latency_ms", asked, row)
    passed = value <= limit
    reason = "" if passed else f"the median is {value:.3f} ms"
    return GateRow("latency_ms", asked, f"{value:.3f} ms", passed, reason, row.evidence)


def _fps(limit: float, row: LatencyRow) -> GateRow:
    asked = f"≥ {limit:g} samples/s at batch {row.batch}"
    value = _value(row.evidence)
    if value is None:
        return _waits("fps", asked, row)
    fps = row.batch / value * 1e3
    reason = "" if fps >= limit else f"it gives {fps:.0f} samples/s"
    return GateRow("fps", asked, f"{fps:.0f} samples/s", fps >= limit, reason, row.evidence)


def _waits(name: str, asked: str, row: LatencyRow) -> GateRow:
    return GateRow(
        name,
        asked,
        "pending",
        passed=None,
        reason="waits for a measurement on the device (rtc bench)",
        evidence=row.evidence,
    )


def _contract(layers: Sequence[LayerRow]) -> GateRow:
    """Strict: every layer is shown to be what was planned. A builder's silence is no proof."""
    broken, untold = changed(layers), unknown(layers)
    reasons = []
    if broken:
        names = ", ".join(f"{row.name} ({row.planned} → {row.built})" for row in broken)
        reasons.append(f"the builder changed {names}")
    if untold:
        names = ", ".join(row.name for row in untold)
        reasons.append(f"the builder does not tell the precision of {names}")
    return GateRow(
        "contract",
        "no layer changed or unknown",
        f"{len(broken)} changed and {len(untold)} unknown of {len(layers)} layers",
        passed=not reasons,
        reason="; ".join(reasons),
    )
