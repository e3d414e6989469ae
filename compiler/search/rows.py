"""What the report says of a search."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from rtc.calibration.sensitivity import LayerSensitivity, Sensitivity
from rtc.compiler.core.evidence import Estimated, Evidence, Measured
from rtc.compiler.core.intervals import Interval
from rtc.compiler.core.precision import PrecisionPlan, ResidualPolicy
from rtc.compiler.core.results import AddRow, Band, LossRow, PolicyRow, SearchRow, TrialRow
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.core.verdicts import TrialState
from rtc.compiler.search.parts import Network
from rtc.compiler.search.trial import Lab
from rtc.compiler.search.trials_loop import SearchResult, Trial
from rtc.passes.quantise.residual_ledger import LedgerRow


def search_row(
    candidate: str, found: SearchResult, evidence: Sensitivity, lab: Lab, seconds: float
) -> SearchRow:
    """The search of one candidate, all but its ledger."""
    times: dict[str, dict[str, float]] = {}
    for (part, how), time_us in found.times.parts.items():
        times.setdefault(part, {})[how] = time_us
    return SearchRow(
        candidate=candidate,
        engine=evidence.engine,
        samples=evidence.samples,
        tried_on=len(lab.tried),
        seconds=seconds,
        ended=found.ended,
        measured=found.best.outcome.measured,
        trials=tuple(_trial_row(trial, found) for trial in found.trials),
        losses=tuple(_loss_row(row, lab.network) for row in evidence.rows),
        times_us=times,
    )


def _trial_row(trial: Trial, found: SearchResult) -> TrialRow:
    outcome = trial.outcome
    kept = TrialState.PASSED if trial.passed else TrialState.REFUSED
    where = outcome.latency
    return TrialRow(
        name=trial.name,
        state=TrialState.BEST if trial is found.best else kept,
        layers=dict(Counter(trial.choice.values())),
        noise_db=10 * math.log10(max(trial.noise, 1e-12)),
        agreement=_band(outcome.agreement),
        top1_drop=_band(outcome.top1_drop) if outcome.top1_drop else None,
        latency=where,
        over_float=_band(outcome.over_float) if outcome.over_float else None,
        predicted_us=trial.predicted_us,
    )


def _loss_row(row: LayerSensitivity, where: Network) -> LossRow:
    return LossRow(
        layer=row.layer,
        op=where.parts.get(row.layer, ""),
        precision=row.precision.value,
        layer_snr_db=row.layer_snr_db,
        output_snr_db=_band(row.output_snr_db),
        kl=_band(row.kl),
        agreement=_band(row.agreement),
        top1_drop=_band(row.top1_drop) if row.top1_drop else None,
    )


def add_rows(
    ledger: Sequence[LedgerRow], plan: PrecisionPlan, found: SearchResult, scheme: QuantScheme
) -> tuple[AddRow, ...]:
    """The residual ledger of a plan."""
    return tuple(_add_row(each, plan, found, scheme) for each in ledger)


def _add_row(
    row: LedgerRow, plan: PrecisionPlan, found: SearchResult, scheme: QuantScheme
) -> AddRow:
    chosen = plan.residuals[row.add]
    return AddRow(
        add=row.add,
        branches=chosen.branches,
        ranges=chosen.branch_ranges,
        choice=chosen.policy.value,
        because=chosen.because,
        policies=tuple(
            PolicyRow(
                policy=policy.policy.value,
                add_snr_db=policy.add_snr_db,
                output_snr_db=_band(policy.output_snr_db),
                top1_drop=_band(policy.top1_drop) if policy.top1_drop else None,
                time=_add_time(row.add, policy.policy, found, scheme),
            )
            for policy in row.policies
        ),
        left_out={policy.value: reason for policy, reason in row.left_out.items()},
    )


def _add_time(
    add: str, policy: ResidualPolicy, found: SearchResult, scheme: QuantScheme
) -> Evidence | None:
    """Of the policy where an engine had it; of one with the same kernels where none did."""
    seen = {how: time for (part, how), time in found.times.parts.items() if part == add}
    outcome = found.best.outcome
    own = seen.get(policy.value)
    if own is not None and outcome.measured:
        where = outcome.latency.where if isinstance(outcome.latency, Measured) else "here"
        return Measured(own / 1e3, "ms", f"{where}, the runtime's profiler", 1)
    if own is not None:
        return Estimated(own / 1e3, "ms", "roofline of its kernel")
    for other in _same_kernels(policy, scheme):
        if (time_us := seen.get(other.value)) is not None:
            return Estimated(time_us / 1e3, "ms", f"as with {other}: the same kernels")
    return None


def _same_kernels(policy: ResidualPolicy, scheme: QuantScheme) -> tuple[ResidualPolicy, ...]:
    """The policies that a runtime computes an Add of this policy like."""
    skip = (ResidualPolicy.QUANTISE_SKIP, ResidualPolicy.RECALIBRATED)
    both = (ResidualPolicy.QUANTISE_BOTH, ResidualPolicy.SHARED_SCALE)
    groups = [(*both, ResidualPolicy.RECALIBRATED)] if scheme.quantise_outputs else [skip, both]
    return next((group for group in groups if policy in group), ())


def _band(interval: Interval) -> Band:
    return (interval.value, interval.low, interval.high)
