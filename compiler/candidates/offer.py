"""Candidates: the float model in one variant of precision, built by one runtime."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from rtc.compiler.building.contract import changed, contract
from rtc.compiler.core.data import Splits
from rtc.compiler.core.errors import BuilderError, GateError, MachineError, ModelError, RecipeError
from rtc.compiler.core.hashing import canonical, digest
from rtc.compiler.core.operators import WEIGHTED
from rtc.compiler.core.passes import Pass, PassContext, Statistics, TargetContext
from rtc.compiler.core.precision import (
    LayerDecision,
    Precision,
    PrecisionPlan,
    ResidualDecision,
    ResidualPolicy,
    Variant,
)
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.results import CertificateRow, LayerRow, SearchRow
from rtc.compiler.core.target import (
    Backend,
    BuildRequest,
    Built,
    BuiltLayer,
    DeviceProfile,
    Runner,
)
from rtc.compiler.core.tensors import types_of
from rtc.compiler.core.unit import Unit
from rtc.compiler.execution.certified_pass import Passed, run_pass
from rtc.compiler.execution.stages import Files, Stages, versions
from rtc.compiler.frontend.float_model import Front, whole
from rtc.compiler.measure import fidelity
from rtc.compiler.measure.provenance import hardware
from rtc.compiler.process import sandbox
from rtc.compiler.recipe.schema import Recipe, Search
from rtc.compiler.report.figures import size

if TYPE_CHECKING:
    from rtc.passes.quantise.assign_precision import AssignPrecision

_BUILD_SECONDS = 900.0
_BUILD_GB = 16.0
_REBUILDS = 3
_OF_ONE = {"out-of-memory": "failed", "unsupported-pin": "left out"}
"""Errors of machine and recipe, by id, that concern one candidate: the state of its row."""
_REQUEST: TypeAdapter[BuildRequest] = TypeAdapter(BuildRequest)
_LAYERS: TypeAdapter[tuple[BuiltLayer, ...]] = TypeAdapter(tuple[BuiltLayer, ...])


@dataclass(frozen=True)
class Candidate:
    """An engine that was built, the graph it was built from, and how it kept the plan."""

    name: str  # "openvino int8"
    backend: str
    variant: Variant
    plan: PrecisionPlan
    graph: Unit
    built: Built
    layers: tuple[LayerRow, ...]
    certificates: tuple[CertificateRow, ...]
    request: BuildRequest
    search: SearchRow | None = None


@dataclass(frozen=True)
class Missing:
    """A candidate that there is no engine of, and why."""

    name: str
    backend: str
    variant: Variant
    state: str  # "failed", or "left out" where the runtime gains nothing from it
    reason: str
    search: SearchRow | None = None


@dataclass(frozen=True)
class Builder:
    """Builds candidates of one float model for one device.

    Attributes:
        recipe: what was asked for.
        model: the float model.
        context: its samples and their statistics.
        request: what engines are built for.
        stages: where results are kept.
        sharers: runtimes that share the time to search in.
        half_losses: what was found of each half type, for all builders of this model.
        refused: layers that a runtime was seen to build wider than planned in INT8, likewise: why,
            by runtime and layer.
        incoming: the model that came in, where graph passes changed what it computes.
    """

    recipe: Recipe
    model: Unit
    context: PassContext
    request: BuildRequest
    stages: Stages
    sharers: int = 1
    half_losses: dict[str, Mapping[str, str]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    incoming: Unit | None = None

    @classmethod
    def of(
        cls, recipe: Recipe, data: Splits, front: Front, profile: DeviceProfile, stages: Stages
    ) -> Builder:
        """What builds a recipe's candidates for a device, at the recipe's batch and below."""
        context = PassContext(whole(data, front.model), recipe.seed, statistics=front.statistics)
        batches = (front.model.fixed_batch or 1, recipe.batch, recipe.batch)
        request = BuildRequest(profile, batches, recipe.measure.threads)
        return cls(recipe, front.model, context, request, stages, incoming=front.incoming)

    def with_threads(self, count: int) -> Builder:
        """The same for engines that get this many CPU threads; 0 for the runtime's own choice."""
        return replace(self, request=replace(self.request, threads=count))

    def candidates(
        self,
        backend: Backend,
        threads: Mapping[Variant, int] | None = None,
        *,
        unsearched: str = "",
    ) -> Iterator[Candidate | Missing]:
        """Every variant that the recipe offers, on one runtime, with so many threads where it says.

        A variant whose build fails, or needs more memory than there is, is a row with its reason;
        so is one where this runtime cannot keep a pin. The others go on. One whose plan comes to
        no INT8 is the float variant that it equals: it is left out, and that one is built in its
        place where it is not on offer. `unsearched`: why a mix that takes a search is left out.
        """
        left_out = dict(backend.variants(self.request.profile))
        if unsearched and self.search is not None:
            left_out.setdefault(Variant.MIX, unsearched)
        offered = {each for each in self.recipe.precision.offer if each not in left_out}
        for variant in self.recipe.precision.offer:
            if variant in left_out:
                yield _missing(backend, variant, "left out", left_out[variant])
                continue
            count = (threads or {}).get(variant, self.request.threads)
            found = self._tried(backend, variant, count)
            if isinstance(found, Candidate) and found.variant is not variant:
                reason = f"{_without_int8(found.plan)}: it is {found.name}"
                yield replace(_missing(backend, variant, "left out", reason), search=found.search)
                if found.variant in offered:
                    continue
                offered.add(found.variant)
            yield found

    def _tried(self, backend: Backend, variant: Variant, threads: int) -> Candidate | Missing:
        try:
            name = f"{backend.name} {variant}"
            with self.stages.together(name, self.request.profile.name) as stages:
                builder = replace(self.with_threads(threads), stages=stages)
                return builder.candidate(backend, variant)
        except (BuilderError, ModelError, GateError) as error:
            return _missing(backend, variant, "failed", str(error))
        except (MachineError, RecipeError) as error:
            if error.id not in _OF_ONE:
                raise
            return _missing(backend, variant, _OF_ONE[error.id], str(error))

    @cached_property
    def _given(self) -> PrecisionPlan | None:
        """The recipe's plan, if it is for this device."""
        plan = self.recipe.plan()
        return plan if plan and plan.target == self.request.profile.name else None

    @property
    def search(self) -> Search | None:
        """How the mix is searched for; None where it is not."""
        return None if self._given else self.recipe.precision.search

    def candidate(self, backend: Backend, variant: Variant) -> Candidate:
        """One variant on one runtime: plan, graph, engine, contract.

        The mix is the recipe's plan where that is for this device, else what the search finds. The
        candidate has the name of what its plan comes to, see `_named`. What the runtime then builds
        wider than INT8 was planned wide in the first place: it is planned and built again.
        """
        given, row = self._given if variant is Variant.MIX else None, None
        if variant is Variant.MIX and self.search is not None:
            from rtc.compiler.search.mix import decided

            self._look_at_int8(backend)
            found = decided(self, backend, self.search)
            given, row = found.plan, found.row
        for _ in range(_REBUILDS):
            plan = self._named(backend, self.plan(backend, variant, given))
            built = self.realise(backend, plan)
            if given is not None and given is self._given:  # a person's word
                break
            if not self._refuse(built):
                break
        return replace(built, search=row)

    def _look_at_int8(self, backend: Backend) -> None:
        """Find out what the runtime refuses before plans are searched for; once."""
        if backend.name in self.refused:
            return
        with suppress(BuilderError, ModelError, GateError):  # they show where it is a candidate
            self._refuse(self.realise(backend, self.plan(backend, Variant.INT8)))

    def _refuse(self, candidate: Candidate) -> bool:
        """Take in what a runtime built wider than INT8; whether there was anything new."""
        known = self.refused.setdefault(candidate.backend, {})
        new = {
            row.name: f"the builder runs it in {row.built} where it is planned in INT8"
            for row in changed(candidate.layers)
            if row.planned == Precision.INT8.value and not row.pinned and row.name not in known
        }
        known |= new
        return bool(new)

    def _named(self, backend: Backend, plan: PrecisionPlan) -> PrecisionPlan:
        """A plan by the name of what it comes to: without INT8 it may be a float variant's."""
        if not plan.is_float or plan.variant in (Variant.FP32, Variant.HALF):
            return plan
        floats = (self.plan(backend, variant) for variant in (Variant.FP32, Variant.HALF))
        alike = next((each for each in floats if plan.computes_as(each)), None)
        return alike or replace(plan, variant=Variant.MIX)

    def target(self, backend: Backend) -> TargetContext:
        """What the passes know of this device with that runtime."""
        profile, options = self.request.profile, self.recipe.precision
        own = backend.scheme(profile)
        granularity = options.granularity  # the runtime's own where the recipe is silent
        per_channel = own.per_channel if granularity is None else granularity == "channel"
        scheme = replace(own, weight_scales=options.weights, per_channel=per_channel)
        runs = backend.runnable(profile).ok
        return TargetContext(profile, backend.name, scheme, self.recipe.batch, runs)

    def plan(
        self, backend: Backend, variant: Variant, given: PrecisionPlan | None = None
    ) -> PrecisionPlan:
        """What one variant gives each layer on one runtime: by `given`, options and pins."""
        name = f"{backend.name} {variant}"
        step = self._assigning(backend, variant, given)
        plan = self._pass(step, self.model, name, target=self.target(backend)).plan
        assert plan is not None, "assign-precision gives a plan"
        return plan

    def mix(
        self,
        backend: Backend,
        layers: Mapping[str, LayerDecision],
        residuals: Mapping[str, ResidualDecision] | None = None,
    ) -> PrecisionPlan:
        """The mix that these decisions make; pins beat them, the rest follows."""
        where = self.target(backend)
        given = PrecisionPlan(
            model=digest(self.model.onnx.proto),
            target=where.profile.name,
            variant=Variant.MIX,
            default=Precision.HALF if where.scheme.half else Precision.FP32,
            layers=layers,
            residuals=residuals or {},
        )
        return self.replanned(backend, given, {})

    def replanned(
        self,
        backend: Backend,
        plan: PrecisionPlan,
        pin: Mapping[str, Precision],
        policies: Mapping[str, ResidualPolicy] | None = None,
    ) -> PrecisionPlan:
        """A plan with some layers in another precision; what follows them is decided anew.

        `policies` are those of residual Adds, by name.

        It is not kept in the store: finding it there would take as long.

        Raises:
            RecipeError: as `AssignPrecision.apply`, for these pins.
        """
        step = self._assigning(backend, plan.variant, plan)
        context = replace(self.context, target=self.target(backend))
        by_name = step.resolved(self.model, context, pin)  # a name beats any pin of the recipe
        residuals = {**step.residuals, **(policies or {})}
        step = replace(step, pin={**step.pin, **by_name}, residuals=residuals)
        changed = step.apply(self.model, context).plan
        assert changed is not None, "assign-precision gives a plan"
        return changed

    def _assigning(
        self, backend: Backend, variant: Variant, given: PrecisionPlan | None
    ) -> AssignPrecision:
        from rtc.passes.quantise.assign_precision import AssignPrecision

        options = self.recipe.precision
        return AssignPrecision(
            variant=variant,
            observer=options.observer,
            observers=dict(options.observers),
            min_snr_db=options.min_snr_db,
            pin=dict(options.pin),
            given=given,
            residuals=dict(options.residuals),
            half_losses=self._half_losses(backend, variant),
            refused={}
            if given and given is self._given
            else dict(self.refused.get(backend.name, {})),
        )

    def _half_losses(self, backend: Backend, variant: Variant) -> Mapping[str, str]:
        """Why a node cannot be half, by name; looked at where the graph may come to hold halves.

        A runtime that takes one float type for the whole model has no choice of nodes.
        """
        target = self.target(backend)
        scheme, pins = target.scheme, self.recipe.precision.pin.values()
        offered = variant in (Variant.HALF, Variant.MIX) or Precision.HALF in pins
        if scheme.half is None or not scheme.half_in_graph or not offered:
            return {}
        if scheme.half not in self.half_losses:
            self.half_losses[scheme.half] = self._look_at_half(target, scheme.half)
        return self.half_losses[scheme.half]

    def _look_at_half(self, target: TargetContext, half: str) -> Mapping[str, str]:
        inputs = {
            "model": self.model.digest,
            "half": half,
            "data": self.context.data.digest,
            "versions": versions(("numpy", "onnx", "onnxruntime")),
        }

        def work(progress: Progress) -> tuple[Files, str]:
            from rtc.passes.quantise.half_loss import half_losses

            found = half_losses(self.model, replace(self.context, target=target, progress=progress))
            nodes = "node stays" if len(found) == 1 else "nodes stay"
            return {"half.json": canonical(found)}, f"{len(found)} {nodes} float"

        files = self.stages.run(f"range of {half}", inputs, work, target=target.profile.name)
        losses: dict[str, str] = json.loads(files["half.json"])
        return losses

    def steps(self, plan: PrecisionPlan, *, trial: bool = False) -> tuple[Pass, ...]:
        """The passes that write a plan into the model, in order; a float plan needs no mending.

        Repairs look at what the ranges make of the model, so ranges that the recipe or a residual
        Add wants anew come first. A `trial` does without what takes long: the recipe's repairs and
        its segmented ranges.
        """
        from rtc.passes.quantise.calibrate_segments import CalibrateSegments
        from rtc.passes.quantise.cast_precision import CastPrecision
        from rtc.passes.quantise.insert_qdq import InsertQdq
        from rtc.passes.quantise.recalibrate import Recalibrate

        writing: tuple[Pass, ...] = (InsertQdq(), CastPrecision())
        if plan.is_float:
            return writing
        if any(d.policy is ResidualPolicy.RECALIBRATED for d in plan.residuals.values()):
            writing = (Recalibrate(), *writing)
        if trial:
            return writing
        options = self.recipe.precision
        everywhere = (CalibrateSegments(),) if options.ranges == "segmented" else ()
        first, last = writing[:-2], writing[-2:]
        return (*everywhere, *first, *options.repairs.steps, *last)

    def graph(
        self,
        backend: Backend,
        plan: PrecisionPlan,
        *,
        trial: bool = False,
        anew: Statistics | None = None,
    ) -> Unit:
        """The graph that a plan is built from, or tried from (see `steps`).

        No step is held against its bound: a plan under examination may well break it. `anew` are
        the ranges around its recalibrated Adds, where they are known already.
        """
        from rtc.passes.quantise.recalibrate import Recalibrate

        context = replace(
            self.context,
            target=self.target(backend),
            plan=plan,
            reference=self.model,
            statistics={**self.context.statistics, **(anew or {})},
        )
        unit = self.model
        for step in self.steps(plan, trial=trial):
            if anew is not None and isinstance(step, Recalibrate):
                continue
            result = step.apply(unit, context)
            unit, found = result.unit, result.statistics
            context = context if found is None else replace(context, statistics=found)
        return unit

    def realise(self, backend: Backend, plan: PrecisionPlan) -> Candidate:
        """The candidate of a plan: every step checked, the engine built and held against the plan.

        Raises:
            GateError: a step broke its bound.
            ModelError, BuilderError, MachineError: the runtime does not build the graph.
        """
        name = f"{backend.name} {plan.variant}"
        written = self._written(name, self.target(backend), plan)
        graph = written[-1].unit
        built = self.built(backend, graph, name)
        return Candidate(
            name=name,
            backend=backend.name,
            variant=plan.variant,
            plan=plan,
            graph=graph,
            built=built,
            layers=contract(plan, built.layers, output_shapes(self.model)),
            certificates=tuple(
                replace(row, stage=f"{row.stage} ({name})")
                for step in written
                for row in step.certificates
            ),
            request=replace(self.request, forms=built.forms),
        )

    def probe(self, graph: Unit) -> fidelity.Probe:
        """What engines of a graph are held to: calibration samples in the reference."""
        samples, profile = self.context.data.calibration, self.request.profile
        return fidelity.probe(graph.onnx.proto, self.model.onnx.proto, samples, profile)

    def _written(self, name: str, target: TargetContext, plan: PrecisionPlan) -> list[Passed]:
        """Each step upon the one before. All but the last are held against the float model."""
        passed: list[Passed] = []
        statistics = self.context.statistics
        *quantising, cast = self.steps(plan)
        for step in (*quantising, cast):
            unit = passed[-1].unit if passed else self.model
            found = self._pass(
                step,
                unit,
                name,
                target=target,
                plan=plan,
                reference=None if step is cast else self.model,
                statistics=statistics,
            )
            statistics = found.statistics or statistics
            passed.append(found)
        return passed

    def _pass(
        self,
        step: Pass,
        unit: Unit,
        name: str,
        *,
        target: TargetContext,
        plan: PrecisionPlan | None = None,
        reference: Unit | None = None,
        statistics: Statistics | None = None,
    ) -> Passed:
        context = replace(
            self.context,
            target=target,
            plan=plan,
            reference=reference,
            statistics=self.context.statistics if statistics is None else statistics,
        )
        return run_pass(step, unit, context, self.stages, label=f"{step.name} {name}")

    def built(self, backend: Backend, graph: Unit, name: str) -> Built:
        """The engine of a graph, made in a child process and, where it runs, held against it.

        Raises:
            ModelError, BuilderError, MachineError: the runtime does not build it, or it computes
                something else at a batch that it is for (id "engine-differs").
        """
        profile = self.request.profile
        asked, here = _REQUEST.dump_python(self.request, mode="json"), backend.runnable(profile).ok
        inputs = {
            "graph": graph.digest,
            "backend": backend.name,
            "runtime": backend.available().version,
            "request": asked,
            "machine": hardware() if profile.kind == "cpu" else {},
            "held": [self.model.digest, self.context.data.digest],
        }

        def work(_: Progress) -> tuple[Files, str]:
            probe = {fidelity.FILE: fidelity.packed(self.probe(graph))} if here else {}
            files = sandbox.run(
                "rtc.compiler.candidates.offer:build_here",
                files={"graph.onnx": graph.onnx.proto, **probe},
                args={"backend": backend.name, "request": asked},
                deadline_s=_BUILD_SECONDS,
                memory_gb=_BUILD_GB,
                what=f"building {name}",
            )
            layers = len(json.loads(files["built.json"])["layers"])
            return files, f"{layers} kernels, {size(len(files['engine.bin']))}"

        return built_from_files(self.stages.run(f"build {name}", inputs, work, target=profile.name))


def _without_int8(plan: PrecisionPlan) -> str:
    """That a plan has no layer in INT8, with the reason that most layers give."""
    reasons = Counter(each.because for each in plan.layers.values() if each.op in WEIGHTED)
    why = "".join(f" ({reason})" for reason, _ in reasons.most_common(1))
    return f"no layer runs in INT8{why}"


def _missing(backend: Backend, variant: Variant, state: str, reason: str) -> Missing:
    return Missing(f"{backend.name} {variant}", backend.name, variant, state, reason)


def output_shapes(model: Unit) -> dict[str, str]:
    """The shape of each node's first output as text, "batch×8×14×14", where it can be inferred."""
    import onnx

    proto = onnx.load_from_string(model.onnx.proto)
    shapes = {
        name: "×".join(str(dim) or "?" for dim in each.shape or ())
        for name, each in types_of(proto, trusting=True).items()
    }
    return {node.name: shapes.get(node.output[0], "") for node in proto.graph.node}


def build_here(files: Mapping[str, bytes], args: Mapping[str, Any]) -> dict[str, bytes]:
    """Build in this process, which is a child: `graph.onnx` in, `built_to_files` out.

    With a `probe.npz` the engine is held against it at the request's batches.
    """
    from rtc.targets.loader import backend

    runtime, request = backend(args["backend"]), _REQUEST.validate_python(args["request"])
    if fidelity.FILE not in files:
        return built_to_files(runtime.build(files["graph.onnx"], request))
    known = fidelity.unpacked(files[fidelity.FILE])
    built, runner = held(runtime, files["graph.onnx"], request, known)
    runner.close()
    return built_to_files(built)


def held(
    runtime: Backend, graph: bytes, request: BuildRequest, known: fidelity.Probe
) -> tuple[Built, Runner]:
    """An engine and its runner, right at every batch of the request; to be closed.

    Raises:
        RtcError: as `Backend.build_and_load` and `fidelity.settle`.
    """
    built, runner = runtime.build_and_load(graph, request)
    try:
        best = request.batches[1]
        forms = fidelity.settled(runner, known, request.batches)
        if forms[best] != runner.forms(best)[0]:  # its layers are others
            runner.close()
            built, runner = runtime.build_and_load(graph, replace(request, forms=forms))
    except BaseException:
        runner.close()
        raise
    return replace(built, forms=forms), runner


def built_to_files(built: Built) -> dict[str, bytes]:
    """What a builder made, as files: `engine.bin` and `built.json`."""
    head = {
        "layers": _LAYERS.dump_python(built.layers, mode="json"),
        "runtime": built.runtime,
        "binding": dict(built.binding),
        "forms": sorted(built.forms.items()),
        "notes": built.notes,
    }
    return {"engine.bin": built.engine, "built.json": canonical(head)}


def built_from_files(files: Files) -> Built:
    """The inverse of `built_to_files`."""
    head = json.loads(files["built.json"])
    return Built(
        engine=files["engine.bin"],
        layers=_LAYERS.validate_python(head["layers"]),
        runtime=head["runtime"],
        binding=head["binding"],
        forms=dict(head["forms"]),
        notes=tuple(head["notes"]),
    )
