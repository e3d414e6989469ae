"""The report of one target, put together from what every stage found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rtc.compiler.building.builder import Candidate
from rtc.compiler.building.contract import changed, unknown
from rtc.compiler.core.evidence import Estimated, Measured
from rtc.compiler.core.intervals import wilson
from rtc.compiler.core.results import (
    AccuracyRow,
    CertificateRow,
    OtherPlan,
    Report,
    SearchRow,
    StageRow,
)
from rtc.compiler.core.target import DeviceProfile
from rtc.compiler.core.verdicts import CandidateState, LatencyMode
from rtc.compiler.frontend.float_model import Front
from rtc.compiler.measure.accuracy import better_than_guessing
from rtc.compiler.publish.trained import Training, training_of
from rtc.compiler.recipe.schema import Recipe
from rtc.compiler.report.facts import speedup
from rtc.compiler.select import gates
from rtc.compiler.select.choice import Selection, find
from rtc.compiler.select.measuring import Appraised
from rtc.passes.torch.training import Score

_FEW = 0.05  # of classes that may change unseen
_NAMED = 4  # layers in a sentence
_MANY = 0.05  # of the samples whose class changes, beyond doubt, before a reader is told


def assemble(
    recipe: Recipe,
    front: Front,
    profile: DeviceProfile,
    *,
    version: str,
    choice: Selection,
    appraised: Appraised,
    certificates: Iterable[CertificateRow],
    stages: Iterable[StageRow],
    searches: Iterable[SearchRow],
    provenance: Mapping[str, Any],
) -> Report:
    """Everything that the bundle of `choice` says of itself."""
    shipped, searches = choice.candidate, tuple(searches)
    passed, trainings = choice.passed, [training_of(*detail) for detail in front.details]
    return Report(
        recipe=recipe.name,
        version=version,
        target=profile.name,
        passed=passed,
        headline=_headline(choice, appraised, recipe.batch),
        shipped=shipped.name,
        baseline=appraised.baseline,
        batch=recipe.batch,
        device=_device(profile, shipped),
        gates=choice.gates,
        accuracy=(
            *_trained(trainings),
            *([appraised.incoming] if appraised.incoming else []),
            appraised.float_model,
            choice.appraisal.accuracy,
        ),
        latency=(*appraised.baseline_latency, *choice.appraisal.latency),
        candidates=choice.rows,
        layers=shipped.layers,
        certificates=tuple(certificates),
        stages=tuple(stages),
        curves=tuple(curve for training in trainings for curve in training.curves),
        notes=_notes(choice, appraised, trainings, searches),
        doubts=_doubts(choice, appraised, front),
        provenance=dict(provenance),
        engine_bytes=len(shipped.built.engine),
        searches=tuple(search for search in searches if not search.failed),
        others=tuple(OtherPlan(other.name, other.layers) for other in choice.others),
    )


def _headline(choice: Selection, appraised: Appraised, batch: int) -> str:
    """One sentence: what ships, how much faster it is, and what it costs."""
    name = choice.candidate.name
    if not choice.passed:
        return f"{name} fails: {gates.reasons(choice.gates)}"
    parts = [f"Ships {name}", _speed_words(choice, appraised, batch)]
    first = appraised.incoming or appraised.float_model
    before, after = first.top1, choice.appraisal.accuracy.top1
    if isinstance(before, Measured) and isinstance(after, Measured):
        change = (after.value - before.value) * 100
        parts.append(f"top-1 {change:+.2f} pt against the {first.subject}")
    return ": ".join(parts[:1]) + ": " + ", ".join(part for part in parts[1:] if part)


def _speed_words(choice: Selection, appraised: Appraised, batch: int) -> str:
    row = find(choice.appraisal.latency, LatencyMode.FORWARD, batch)
    if isinstance(row.evidence, Measured) and row.speedup is not None:
        return f"{speedup(row.speedup)} {appraised.baseline} at batch {batch}"
    if isinstance(row.evidence, Estimated):
        return f"an estimated {row.evidence.value:.3g} ms at batch {batch}, pending on the device"
    return ""


def _device(profile: DeviceProfile, shipped: Candidate) -> dict[str, str]:
    runtime, threads = shipped.built.runtime, shipped.request.threads
    facts = {"Device": profile.name, "Runtime": runtime}
    if threads:
        facts["CPU threads"] = str(threads)
    return facts | {
        key.replace("_", " ").capitalize(): value
        for key, value in shipped.built.binding.items()
        if value not in runtime
    }


def _notes(
    choice: Selection,
    appraised: Appraised,
    trainings: Sequence[Training],
    searches: Sequence[SearchRow],
) -> tuple[str, ...]:
    """What a reader should know besides the doubts: what went wrong, then how steady it was."""
    failed = [row for row in choice.rows if row.state is CandidateState.FAILED]
    notes = [f"{row.name} failed: {row.reason}" for row in failed]
    notes += _cut_short(searches)
    notes += _since_training(choice, trainings)
    notes += appraised.notes
    notes += [f"{training.stage}: {training.because}" for training in trainings if training.because]
    return tuple(notes)


def _doubts(choice: Selection, appraised: Appraised, front: Front) -> tuple[str, ...]:
    """What may make the result mean something else than it says; the worst first."""
    layers = choice.candidate.layers
    engine, asked = choice.appraisal.accuracy, [row.name for row in choice.gates]
    doubts = _chance(appraised.float_model) + _since_it_came_in(appraised)
    doubts += _few(engine) + _unlimited(engine, asked)
    if broken := changed(layers):
        told = _some([f"{row.name} ({row.planned} → {row.built})" for row in broken])
        doubts.append(f"The builder changed {len(broken)} of {len(layers)} layers: {told}.")
    if untold := unknown(layers):
        told = _some([row.name for row in untold])
        doubts.append(f"The builder does not tell which precision it gave {told}.")
    return (*doubts, *choice.candidate.built.notes, *front.notes)


def _some(names: Sequence[str]) -> str:
    """A few of them; the table of layers has all."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _cut_short(searches: Iterable[SearchRow]) -> list[str]:
    """Searches without a plan of theirs.

    The compile that searched has warned of it; the report tells those who read it later.
    """
    failed = [
        f"The search for {search.candidate} failed, so its plan is the rules': {search.failed}"
        for search in searches
        if search.failed
    ]
    return failed + [
        f"The search for {search.candidate} had time for the float plan alone, so its plan is the"
        " rules': --budget gives it more."
        for search in searches
        if search.cut_short
    ]


def _chance(float_model: AccuracyRow) -> list[str]:
    """A model that guesses passes every gate that compares with it."""
    top1, guess = float_model.top1, float_model.guess
    better = better_than_guessing(float_model)
    if better or not isinstance(top1, Measured):
        return []
    if better is None or not isinstance(guess, Measured):
        few = f"{top1.samples:,} test samples, or labels that are all the same,"
        return [f"Nothing tells the float model from guessing: {few} could not."]
    note = (
        f"The float model's top-1, {top1.value * 100:.2f} %, is no better than guessing"
        f" ({guess.value * 100:.2f} % with the same answers in any order): are weights, labels and"
        " data.preprocess the model's own?"
    )
    return [note]


def _few(engine: AccuracyRow) -> list[str]:
    """Where samples are few, hardly any drop would show."""
    same = engine.agreement
    if not isinstance(same, Measured) or same.low is None or same.value - same.low <= _FEW:
        return []
    few = f"{same.samples:,} test sample{' is' if same.samples == 1 else 's are'} few"
    unseen = f"{100 * (1 - same.low):.1f} %"
    note = (
        f"{few}: with 95 % confidence no more can be said than that the engine's class is another"
        f" on at most {unseen}; a drop of top-1 of a few points would not show."
    )
    return [note]


def _unlimited(engine: AccuracyRow, asked: Iterable[str]) -> list[str]:
    """An engine that surely gives other classes passes where no gate asks for the same ones."""
    same, limits = engine.agreement, {"parity", "top1_drop", "top1"}
    if (
        limits.intersection(asked)
        or not isinstance(same, Measured)
        or same.high is None
        or same.high > 1 - _MANY
    ):
        return []
    note = (
        f"The engine's class is another than the float model's on {100 * (1 - same.value):.2f} % of"
        f" {same.samples:,} test samples, and no gate limits that: see gates.parity and"
        " gates.top1_drop."
    )
    return [note]


def _since_it_came_in(appraised: Appraised) -> list[str]:
    """Accuracies beside the float model's own do not tell what passes did to that model."""
    if appraised.incoming is None:
        return []
    before, after = appraised.incoming.top1, appraised.float_model.top1
    same = appraised.incoming.agreement
    assert isinstance(before, Measured)
    assert isinstance(after, Measured)
    assert isinstance(same, Measured)
    if same.value == 1:
        return []
    note = (
        f"Passes changed what the model that came in computes: top-1 {100 * before.value:.2f} %"
        f" became {100 * after.value:.2f} % ({100 * (after.value - before.value):+.2f} pt) in the"
        f" float model, and {100 * same.value:.2f} % of the test samples kept their class. The gate"
        " on top-1 counts from the model that came in."
    )
    return [note]


def _since_training(choice: Selection, trainings: Sequence[Training]) -> list[str]:
    """Gates compare with the float ONNX model; this tells of what came before it."""
    trained = next((training.test for training in trainings if training.test is not None), None)
    shipped = choice.appraisal.accuracy.top1
    if trained is None or not isinstance(shipped, Measured):
        return []
    drop = (shipped.value - trained.top1) * 100
    note = (
        f"From the trained model to this engine, every pass included, top-1 goes from"
        f" {trained.top1 * 100:.2f} % to {shipped.value * 100:.2f} % ({drop:+.2f} pt)."
    )
    return [note]


def _trained(trainings: Iterable[Training]) -> tuple[AccuracyRow, ...]:
    """Teacher, student and control of each distillation, on the test set."""
    return tuple(
        _trained_row(who, score)
        for training in trainings
        for who, score in training.contestants.items()
    )


def _trained_row(who: str, score: Score) -> AccuracyRow:
    samples = score.samples
    share = wilson(round(score.top1 * samples), samples)
    where = "PyTorch eager"
    return AccuracyRow(
        subject=who,
        top1=Measured(share.value, "fraction", where, samples, share.low, share.high),
        top5=None,
        loss=Measured(score.loss, "nats", where, samples),
        agreement=None,
        runs_on=where,
    )
