"""A trial: one plan, built by the runtime, run on calibration samples and timed beside float.

Whatever the search believes of a plan is checked here. Where the device is not here, the engine is
built all the same: its latency is the roofline's estimate, its accuracy that of its graph in the
reference. The recipe's repairs take longer than a trial and only lower the loss; they come after,
and so do ranges that the recipe wants taken anew over the whole model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np
from pydantic import TypeAdapter

from rtc.compiler.building.builder import Builder
from rtc.compiler.building.contract import changed, contract, unknown
from rtc.compiler.core.arrays import Array, BoolArray
from rtc.compiler.core.closing import Closing
from rtc.compiler.core.data import Split
from rtc.compiler.core.evidence import Estimated, Measured
from rtc.compiler.core.intervals import Interval, paired_difference, wilson
from rtc.compiler.core.outputs import output_kind
from rtc.compiler.core.passes import Statistics, TensorRange
from rtc.compiler.core.precision import (
    LayerDecision,
    Precision,
    PrecisionPlan,
    ResidualDecision,
    ResidualPolicy,
)
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.results import AccuracyRow
from rtc.compiler.core.target import Built
from rtc.compiler.core.unit import Unit
from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.execution.stages import Files
from rtc.compiler.measure.accuracy import accuracy_row
from rtc.compiler.measure.comparison import Case, engine_subject
from rtc.compiler.measure.kernels import KernelTimes
from rtc.compiler.measure.provenance import device, hardware
from rtc.compiler.measure.reference import reference_logits
from rtc.compiler.search.parts import Network, Shares, attribute
from rtc.compiler.search.programme import Ways
from rtc.compiler.search.workbench import BESIDE, BUILT, Runtime
from rtc.targets import roofline

_TIMED_S = 0.6  # of a trial's engine and the float one together
_KERNELS_S = 0.4
_FEWEST, _GLANCE = 64, 8  # samples: of any trial, and to see how long one takes
Time = Measured | Estimated | None


@dataclass(frozen=True)
class Outcome:
    """What a trial found.

    Attributes:
        latency: of a batch, forward only; None where nothing is known of it.
        end_to_end: of a batch, from raw samples to classes; None where it was not measured.
        over_float: how many times faster than the float engine, measured in turns with it.
        agreement: with the float model's top-1.
        top1_drop: as the gate counts it, from the model that came in where graph passes changed
            what it computes; None where the samples have no labels.
        lost: the same, or without labels what it cannot exceed: how many change their class.
        shares: microseconds by part and conversion.
        measured: whether those were; estimates otherwise.
        finite: whether every output is a number; where not, nothing was timed.
        as_planned: whether the builder made every layer as planned.
        quality: on the samples; None where they have no labels or an output is no number.
    """

    latency: Time
    end_to_end: Measured | None
    over_float: Interval | None
    agreement: Interval
    top1_drop: Interval | None
    lost: float
    shares: Shares
    measured: bool
    finite: bool = True
    as_planned: bool = True
    quality: AccuracyRow | None = None

    @property
    def cost(self) -> float:
        """What is compared: time in times of the float engine's, or the estimate."""
        if self.over_float is not None:
            return 1 / self.over_float.value
        return self.latency.value if self.latency is not None else float("inf")


_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)


@dataclass(frozen=True)
class Lab(Closing):
    """Where plans of one model are tried on one runtime; a context manager.

    Attributes:
        builder: the model, its statistics, the device, the stages and the runtime.
        network: the model's parts.
        samples: calibration samples to run plans on.
        float_plan: the plan whose engine the others are timed beside.
        anew: ranges around residual Adds, for where the policy is `recalibrated`; a plan with
            another such Add has them taken for itself.
        modes: what is timed, `LatencyMode.FORWARD` first.
        each_s: how long a plan may run on samples, or None; with it fewer of them may be taken.
    """

    builder: Builder
    network: Network
    samples: Split
    float_plan: PrecisionPlan
    anew: Mapping[str, Statistics] = field(default_factory=dict)
    modes: tuple[LatencyMode, ...] = (LatencyMode.FORWARD,)
    each_s: float | None = None

    @property
    def here(self) -> bool:
        """Whether engines for the device run on this machine."""
        return self.builder.backend.runnable(self.builder.job.request.profile).ok

    @cached_property
    def tried(self) -> Split:
        """The samples that plans are run on: all, a half, a quarter, …: what there is time for."""
        if self.each_s is None or len(self.samples) <= _FEWEST:
            return self.samples
        job, allowed = self.builder.job, self.each_s
        inputs = {
            "model": job.model.digest,
            "backend": self.builder.backend.name,
            "samples": len(self.samples),
            "each_s": allowed,
            "request": asdict(job.request),
            "machine": hardware(),
        }

        def work(_: Progress) -> tuple[Files, str]:
            count, each = len(self.samples), self._sample_s()
            while count * each > allowed and count > _FEWEST:
                count = max(_FEWEST, count // 2)
            return {"count.json": str(count).encode()}, f"{count} samples for each plan"

        target = job.request.profile.name
        files = job.stages.run("samples", inputs, work, target=target, by=[self.builder.backend])
        return self.samples.head(int(files["count.json"]))

    def _sample_s(self) -> float:
        """Seconds that a sample takes: in the float engine, or off the device in the reference."""
        if self.here:
            return self.runtime.beside_ms() / 1e3 / self.builder.job.request.batches[1]
        few, begun = self.samples.head(_GLANCE), time.perf_counter()
        reference_logits(self.builder.job.model.onnx.proto, few)
        return (time.perf_counter() - begun) / len(few)

    @cached_property
    def reference(self) -> Array:
        """The float model's logits."""
        return reference_logits(self.builder.job.model.onnx.proto, self.tried)

    @cached_property
    def before(self) -> Array:
        """Logits of the model that a drop of top-1 counts from."""
        incoming = self.builder.job.incoming
        return reference_logits(incoming.onnx.proto, self.tried) if incoming else self.reference

    @cached_property
    def runtime(self) -> Runtime:
        """The processes, started for the first trial that is not known already."""
        builder, backend = self.builder, self.builder.backend
        request = builder.job.request
        graph = builder.writer.graph(self.float_plan)
        name = f"{backend.name} {self.float_plan.default}"  # its candidate's, built already
        if not self.here:
            return Runtime(backend, request, self.samples)
        beside = builder.built(graph, name)
        held = replace(request, forms=beside.forms)
        subject = engine_subject(BESIDE, backend.name, beside.engine, held, builder.probe(graph))
        return Runtime(backend, request, self.samples, beside=subject)

    def close(self) -> None:
        """End the processes."""
        if "runtime" in self.__dict__:
            self.runtime.close()

    def plan(self, choice: Ways) -> PrecisionPlan:
        """The plan that a choice makes; pins beat it, and what has no weights follows it."""
        return self.builder.writer.mix(*decisions(choice, self.float_plan))

    def trial(self, plan: PrecisionPlan) -> Outcome:
        """Try a plan, or take what was found earlier.

        Raises:
            ModelError, BuilderError, MachineError: the runtime does not build or run it, or its
                engine computes something else than the plan's graph.
        """
        job, writer, request = self.builder.job, self.builder.writer, self.builder.job.request
        inputs = {
            "model": job.model.digest,
            "incoming": job.incoming.digest if job.incoming else "",
            "plan": plan.to_dict(),
            "float": self.float_plan.to_dict(),
            "statistics": {n: asdict(seen) for n, seen in job.context.statistics.items()},
            "target": asdict(writer.target),
            "runtime": self.builder.backend.available().version,
            "request": asdict(request),
            "anew": {n: asdict(seen) for n, seen in self._ranges(plan).items()},
            "steps": [[s.name, s.options()] for s in writer.steps(plan, trial=True)],
            "data": job.context.data.digest,
            "samples": len(self.tried),
            "modes": self.modes,
            "here": self.here,
            "machine": hardware(),
        }

        def work(_: Progress) -> tuple[Files, str]:
            outcome = self._tried(plan)
            return {"outcome.json": _OUTCOME.dump_json(outcome)}, _words(outcome)

        target = request.profile.name
        files = job.stages.run("trial", inputs, work, target=target, by=[self.builder.backend])
        return _OUTCOME.validate_json(files["outcome.json"])

    def _tried(self, plan: PrecisionPlan) -> Outcome:
        graph = self._graph(plan)
        built = self.runtime.build(graph, self.builder.probe(graph) if self.here else None)
        logits = self.runtime.logits(len(self.tried)) if self.here else self._reference_of(graph)
        agreement, drop, lost = self._accuracy(logits)
        rows = contract(plan, built.layers, {})
        as_planned = not (changed(rows) or unknown(rows))
        if not np.isfinite(logits).all():
            return Outcome(
                latency=None,
                end_to_end=None,
                over_float=None,
                agreement=agreement,
                top1_drop=drop,
                lost=lost,
                shares=Shares({}, {}, 0.0),
                measured=self.here,
                finite=False,
                as_planned=as_planned,
            )
        latency, end_to_end, ratio = self._timed() if self.here else self._foreseen(built)
        kernels = self.runtime.kernel_times(built, _KERNELS_S)
        return Outcome(
            latency=latency,
            end_to_end=end_to_end,
            over_float=ratio,
            agreement=agreement,
            top1_drop=drop,
            lost=lost,
            shares=self._shares(graph, built, kernels),
            measured=kernels.measured,
            as_planned=as_planned,
            quality=self._quality(logits),
        )

    def _graph(self, plan: PrecisionPlan) -> Unit:
        """What is built of a plan, without the recipe's repairs."""
        known = self._recalibrated(plan) <= self.anew.keys()
        return self.builder.writer.graph(
            plan, trial=True, anew=self._ranges(plan) if known else None
        )

    def _ranges(self, plan: PrecisionPlan) -> dict[str, TensorRange]:
        """The ranges that the plan's residual Adds want anew."""
        wanted = sorted(self._recalibrated(plan) & self.anew.keys())
        return {name: seen for add in wanted for name, seen in self.anew[add].items()}

    def _recalibrated(self, plan: PrecisionPlan) -> set[str]:
        """Names of the residual Adds of that policy."""
        policies = ((add, decision.policy) for add, decision in plan.residuals.items())
        return {add for add, policy in policies if policy is ResidualPolicy.RECALIBRATED}

    def _reference_of(self, graph: Unit) -> Array:
        return reference_logits(graph.onnx.proto, self.tried)

    def _shares(self, graph: Unit, built: Built, kernels: KernelTimes) -> Shares:
        import onnx

        proto = onnx.load_model_from_string(graph.onnx.proto)
        return attribute(self.network, proto, built.layers, kernels.microseconds)

    def _foreseen(self, built: Built) -> tuple[Time, None, None]:
        """The estimated latency."""
        request = self.builder.job.request
        estimate = roofline.estimate(built.layers, request.profile, request.batches[1])
        return estimate if isinstance(estimate, Estimated) else None, None, None

    def _timed(self) -> tuple[Time, Measured | None, Interval]:
        """Latency in each mode, and the speed against the float engine, which takes turns."""
        request, seed = self.builder.job.request, self.builder.job.recipe.seed
        where, batch = device(request.profile.kind), request.batches[1]
        compared = self.runtime.compared(_TIMED_S, modes=self.modes, seed=seed)
        latencies = {
            mode: compared.measured(BUILT, Case(mode, batch), where) for mode in self.modes
        }
        ratio = compared.speedup(BUILT, BESIDE, Case(LatencyMode.FORWARD, batch))
        return latencies[LatencyMode.FORWARD], latencies.get(LatencyMode.END_TO_END), ratio

    def of_float(self) -> tuple[float, AccuracyRow | None]:
        """What the float model itself loses of the model that came in, and its quality."""
        return self._accuracy(self.reference)[2], self._quality(self.reference)

    def _accuracy(self, logits: Array) -> tuple[Interval, Interval | None, float]:
        """Agreement, drop of top-1 and its bound; a sample whose output is not finite is lost."""
        finite: BoolArray = np.asarray(np.isfinite(logits).all(axis=1))
        floats, before, after = (x.argmax(axis=1) for x in (self.reference, self.before, logits))
        agreement = wilson(int(np.count_nonzero(finite & (floats == after))), len(after))
        labels = self.tried.labels
        if labels is None:
            changed = int(np.count_nonzero(~finite | (before != after)))
            return agreement, None, changed / len(after)
        drop = paired_difference(before == labels, finite & (after == labels))
        return agreement, drop, drop.value

    def _quality(self, logits: Array) -> AccuracyRow | None:
        labels, name = self.tried.labels, self.builder.backend.name
        if labels is None or not np.isfinite(logits).all():
            return None
        kind = output_kind(self.reference)
        return accuracy_row("plan", logits, labels, self.reference, name, kind=kind)


def decisions(
    choice: Ways, float_plan: PrecisionPlan, because: Mapping[str, str] | None = None
) -> tuple[dict[str, LayerDecision], dict[str, ResidualDecision]]:
    """What a choice decides of layers and of residual Adds, with the reasons that are given."""
    because = because or {}
    adds = float_plan.residuals
    layers = {
        name: LayerDecision(Precision(how), because.get(name, "searched"))
        for name, how in choice.items()
        if name not in adds and not _came_quantised(name, float_plan)
    }
    sums = {
        name: replace(adds[name], policy=ResidualPolicy(how), because=because.get(name, "searched"))
        for name, how in choice.items()
        if name in adds
    }
    return layers, sums


def _came_quantised(layer: str, plan: PrecisionPlan) -> bool:
    decision = plan.layers.get(layer)
    return decision is not None and decision.came_quantised


def _words(outcome: Outcome) -> str:
    speed = f"{outcome.over_float.value:.2f}× float, " if outcome.over_float else ""
    return f"{speed}{outcome.agreement.value:.1%} agree"
