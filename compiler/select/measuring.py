"""What each candidate is worth: accuracy on the test set, and latency.

Where the device is here, both are measured on the shipped bytes, all candidates and the baseline in
one interleaved run. Where it is not, accuracy is that of the candidate's graph in the reference on
the CPU, and says so; latency is estimated from the built plan and pending on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from pydantic import TypeAdapter

from rtc.compiler.building.builder import Candidate
from rtc.compiler.building.engines import built_to_files
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split, Splits
from rtc.compiler.core.errors import BuilderError, DataError, RtcError
from rtc.compiler.core.evidence import Estimated, Pending
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.intervals import Interval
from rtc.compiler.core.outputs import OutputKind, output_kind
from rtc.compiler.core.passes import LEAVE_OUT, PIN_WIDER
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.results import (
    FLOAT_MODEL,
    INCOMING_MODEL,
    SHIPPED_ENGINE,
    AccuracyRow,
    LatencyRow,
)
from rtc.compiler.core.target import DeviceProfile
from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.execution.stages import Files, Stages, versions
from rtc.compiler.frontend.float_model import Front
from rtc.compiler.measure import fidelity
from rtc.compiler.measure.accuracy import accuracy_row
from rtc.compiler.measure.comparison import (
    MODES,
    Case,
    Comparison,
    Subject,
    engine_subject,
    float_subject,
)
from rtc.compiler.measure.fidelity import Probe
from rtc.compiler.measure.latency import Bench
from rtc.compiler.measure.provenance import device, hardware, machine, physical_cores
from rtc.compiler.measure.reference import REFERENCE, reference_logits
from rtc.compiler.recipe.schema import Recipe
from rtc.targets import roofline


@dataclass(frozen=True)
class Appraisal:
    """One candidate's figures.

    Attributes:
        accuracy: on the test set.
        latency: in every mode, at batch 1, if the model takes it, and at the recipe's batch.
        over_float: how many times faster than the fastest float candidate it is, forward only at
            the recipe's batch, with the 95 % interval; None where it was not measured.
    """

    accuracy: AccuracyRow
    latency: tuple[LatencyRow, ...]
    over_float: Interval | None


@dataclass(frozen=True)
class Appraised:
    """All candidates' figures, and those of what they are compared with.

    Attributes:
        of: appraisals by the candidate's name.
        failed: why a candidate has none, by name.
        float_model: the float ONNX model in the reference.
        incoming: the model that came in, where graph passes changed what it computes; its agreement
            is with the float model.
        baseline: whose latency is the yardstick.
        baseline_latency: its rows.
        notes: what a reader must know of the measurement.
        output: what the float model gives for each class, and so every engine.
    """

    of: Mapping[str, Appraisal]
    failed: Mapping[str, str]
    float_model: AccuracyRow
    baseline: str
    baseline_latency: tuple[LatencyRow, ...]
    notes: tuple[str, ...] = field(default=())
    incoming: AccuracyRow | None = None
    output: OutputKind = OutputKind.LOGITS


_APPRAISED: TypeAdapter[Appraised] = TypeAdapter(Appraised)


def appraise(
    recipe: Recipe,
    data: Splits,
    front: Front,
    *,
    profile: DeviceProfile,
    built: Sequence[Candidate],
    stages: Stages,
) -> Appraised:
    """Figures of every candidate, measured where the device is here."""
    from rtc.targets.loader import backend

    runtimes = [backend(candidate.backend) for candidate in built]
    here = {
        candidate.name for candidate in built if backend(candidate.backend).runnable(profile).ok
    }
    inputs = {
        "model": front.model.digest,
        "incoming": front.incoming.digest if front.incoming else "",
        "eager": front.eager.digest if front.eager else "",
        "engines": {candidate.name: digest(candidate.built.engine) for candidate in built},
        "graphs": {candidate.name: candidate.graph.digest for candidate in built},
        "layers": {
            candidate.name: digest(built_to_files(candidate.built)["built.json"])
            for candidate in built
        },
        "profile": asdict(profile),
        "here": sorted(here),
        "data": data.digest,
        "batch": recipe.batch,
        "measure": recipe.measure.model_dump(mode="json"),
        "seed": recipe.seed,
        "machine": hardware(),
        "versions": versions(("numpy", "onnxruntime", "torch")),
        "runtimes": {runtime.name: runtime.available().version for runtime in runtimes},
    }

    def work(progress: Progress) -> tuple[Files, str]:
        job = _Work(recipe, data.test, front, profile, built)
        appraised = job.on_device(progress) if here else job.off_device(progress)
        summary = f"{len(appraised.of)} candidates, {len(data.test)} test samples"
        return {"appraised.json": _APPRAISED.dump_json(appraised)}, summary

    files = stages.run("measure", inputs, work, target=profile.name, by=runtimes)
    return _APPRAISED.validate_json(files["appraised.json"])


@dataclass(frozen=True)
class _Work:
    """The measurement of one target's candidates."""

    recipe: Recipe
    test: Split
    front: Front
    profile: DeviceProfile
    built: Sequence[Candidate]

    @property
    def batches(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((self.front.model.fixed_batch or 1, self.recipe.batch)))

    @property
    def baseline(self) -> str:
        """Whose latency is the yardstick; it runs on the CPU, and says so beside a GPU."""
        name = "torch eager" if self.front.eager else REFERENCE
        return name if self.profile.kind == "cpu" else f"{name} (CPU)"

    def baselines(self) -> list[Subject]:
        """What may be the yardstick: engines have the best number of threads, so it has one too."""
        unit, name = self.front.eager or self.front.model, self.baseline
        asked = self.recipe.measure.threads
        subjects = [float_subject(name, unit, asked)]
        if self.profile.kind == "cpu" and not asked and physical_cores() > 1:
            subjects.append(float_subject(f"{name}, 1 thread", unit, 1))
        return subjects

    def on_device(self, progress: Progress) -> Appraised:
        """Accuracy and latency of the shipped bytes, in one interleaved run with the baseline."""
        yardsticks = self.baselines()
        subjects = list(yardsticks)
        subjects += [
            engine_subject(
                candidate.name,
                candidate.backend,
                candidate.built.engine,
                candidate.request,
                self._probe(candidate),
            )
            for candidate in self.built
        ]
        reference = reference_logits(self.front.model.onnx.proto, self.test)
        scored: dict[str, AccuracyRow] = {}
        with Bench(subjects, self.test, self.batches, progress) as bench:
            for candidate in self.built:
                if candidate.name in bench.running:
                    self._score_engine(bench, candidate, reference, scored)
            seconds, seed = self.recipe.measure.seconds, self.recipe.seed
            compared = bench.time(seconds, seed=seed, progress=progress)
            failures = {name: str(error) for name, error in bench.failures.items()}
        for yardstick in yardsticks:
            if yardstick.name in failures:
                raise bench.failures[yardstick.name]
        case = Case(LatencyMode.FORWARD, self.recipe.batch)
        baseline = fastest([yardstick.name for yardstick in yardsticks], compared, case)
        rows = compared.rows(baseline, device(self.profile.kind))
        sound = scored.keys() - failures.keys()
        sound_ones = [candidate for candidate in self.built if candidate.name in sound]
        best = fastest_float(sound_ones, compared, case)
        return Appraised(
            of={
                name: Appraisal(
                    row,
                    tuple(r for r in rows if r.subject == name),
                    compared.speedup(name, best, case) if best else None,
                )
                for name, row in scored.items()
                if name in sound
            },
            failed=failures,
            float_model=self._score_float(FLOAT_MODEL, reference),
            incoming=self._score_incoming(reference),
            baseline=baseline,
            baseline_latency=tuple(row for row in rows if row.subject == baseline),
            notes=compared.notes(),
            output=output_kind(reference),
        )

    def _probe(self, each: Candidate) -> Probe:
        """What a candidate is held to: its graph in the reference, on test samples."""
        model = self.front.model.onnx.proto
        return fidelity.probe(each.graph.onnx.proto, model, self.test, self.profile)

    def _score_engine(
        self, bench: Bench, each: Candidate, reference: Array, scored: dict[str, AccuracyRow]
    ) -> None:
        where = f"{each.built.runtime} on {device(self.profile.kind)}"
        try:
            logits = bench.logits(each.name, self.recipe.batch)
            if not np.isfinite(logits).all():
                lost = int(np.count_nonzero(~np.isfinite(logits).all(axis=1)))
                raise BuilderError(
                    "the engine's outputs are NaN or infinite",
                    where=each.name,
                    seen=f"{lost} of {len(logits)} test samples",
                    fix=self._remedy(each),
                    id="not-finite-output",
                )
            scored[each.name] = self._score(SHIPPED_ENGINE, logits, reference, where)
        except RtcError as error:
            bench.failures.setdefault(each.name, error)

    def _remedy(self, each: Candidate) -> str:
        """What there is to do where outputs are not finite: `culprits` tries types of layers."""
        from rtc.targets.loader import backend

        one_type = not backend(each.backend).scheme(self.profile).half_in_graph
        half = each.plan.default is Precision.HALF
        return LEAVE_OUT if half and one_type else PIN_WIDER

    def off_device(self, progress: Progress) -> Appraised:
        """Accuracy of each graph in the reference; latency estimated from the plan, and pending."""
        reference = reference_logits(self.front.model.onnx.proto, self.test)
        where = f"the engine's graph in {REFERENCE} on {machine()}"
        of: dict[str, Appraisal] = {}
        failed: dict[str, str] = {}
        for done, candidate in enumerate(self.built):
            progress(done, len(self.built), candidate.name)
            try:
                logits = reference_logits(candidate.graph.onnx.proto, self.test)
                row = self._score(SHIPPED_ENGINE, logits, reference, where)
                of[candidate.name] = Appraisal(row, self._foreseen(candidate), over_float=None)
            except RtcError as error:
                failed[candidate.name] = str(error)
        baseline = self.baseline
        return Appraised(
            of=of,
            failed=failed,
            float_model=self._score_float(FLOAT_MODEL, reference),
            incoming=self._score_incoming(reference),
            baseline=baseline,
            baseline_latency=tuple(
                self._pending(baseline, m, b) for m in MODES for b in self.batches
            ),
            output=output_kind(reference),
        )

    def _score(
        self, subject: str, outputs: Array, reference: Array | None, where: str
    ) -> AccuracyRow:
        if self.test.labels is None:
            raise DataError("the test split has no labels", fix="accuracy needs them")
        kind = output_kind(outputs if reference is None else reference)
        return accuracy_row(subject, outputs, self.test.labels, reference, where, kind=kind)

    def _score_float(
        self, subject: str, logits: Array, reference: Array | None = None
    ) -> AccuracyRow:
        return self._score(subject, logits, reference, f"{REFERENCE} on {machine()}")

    def _score_incoming(self, reference: Array) -> AccuracyRow | None:
        unit = self.front.incoming
        if unit is None:
            return None
        logits = reference_logits(unit.onnx.proto, self.test)
        return self._score_float(INCOMING_MODEL, logits, reference)

    def _foreseen(self, each: Candidate) -> tuple[LatencyRow, ...]:
        rows = [self._pending(each.name, mode, b) for mode in MODES for b in self.batches]
        for batch in self.batches:
            estimate = roofline.estimate(each.built.layers, self.profile, batch)
            if isinstance(estimate, Estimated):
                fps = 1e3 * batch / estimate.value
                rows.append(LatencyRow(each.name, LatencyMode.FORWARD, batch, estimate, fps))
        return tuple(rows)

    def _pending(self, subject: str, mode: LatencyMode, batch: int) -> LatencyRow:
        return LatencyRow(subject, mode, batch, Pending("ms", self.profile.name))


def fastest_float(candidates: Sequence[Candidate], compared: Comparison, case: Case) -> str:
    """The name of the float candidate that is the fastest in a case, or ""."""
    series = compared.series[case]
    floats = [
        candidate.name
        for candidate in candidates
        if candidate.plan.is_float and candidate.name in series
    ]
    return fastest(floats, compared, case)


def fastest(names: Sequence[str], compared: Comparison, case: Case) -> str:
    """The fastest of some subjects in a case, or "" of none.

    Each is held against the first of them: ratios by rounds are steadier than medians.
    """
    return max(names, key=lambda n: compared.speedup(n, names[0], case).value, default="")
