"""Candidates: the float model in one variant of precision, built by one runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from rtc.compiler import sandbox
from rtc.compiler.contract import contract
from rtc.compiler.core.errors import BuilderError, GateError, MachineError, ModelError, RecipeError
from rtc.compiler.core.hashing import canonical
from rtc.compiler.core.passes import Pass, PassContext, Statistics, TargetContext
from rtc.compiler.core.precision import PrecisionPlan, ResidualPolicy, Variant
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.target import Backend, BuildRequest, Built, BuiltLayer
from rtc.compiler.core.unit import Unit
from rtc.compiler.measure.provenance import hardware
from rtc.compiler.passing import Passed, run_pass
from rtc.compiler.recipe import Recipe
from rtc.compiler.report.figures import size
from rtc.compiler.report.model import CertificateRow, LayerRow
from rtc.compiler.stages import Files, Stages

_BUILD_SECONDS = 900.0
_BUILD_GB = 16.0
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


@dataclass(frozen=True)
class Missing:
    """A candidate that there is no engine of, and why."""

    name: str
    backend: str
    variant: Variant
    state: str  # "failed", or "left out" where the runtime gains nothing from it
    reason: str


@dataclass(frozen=True)
class Builder:
    """Builds candidates of one float model for one device."""

    recipe: Recipe
    model: Unit
    context: PassContext
    request: BuildRequest
    stages: Stages

    def candidates(self, backend: Backend) -> Iterator[Candidate | Missing]:
        """Every variant that the recipe offers, on one runtime.

        A variant whose build fails, or needs more memory than there is, is a row with its reason;
        so is one where this runtime cannot keep a pin. The others go on.
        """
        left_out = backend.variants(self.request.profile)
        for variant in self.recipe.precision.offer:
            if variant in left_out:
                yield _missing(backend, variant, "left out", left_out[variant])
            else:
                yield self._tried(backend, variant)

    def _tried(self, backend: Backend, variant: Variant) -> Candidate | Missing:
        try:
            name = f"{backend.name} {variant}"
            with self.stages.together(name, self.request.profile.name) as stages:
                return replace(self, stages=stages).candidate(backend, variant)
        except (BuilderError, ModelError, GateError) as error:
            return _missing(backend, variant, "failed", str(error))
        except (MachineError, RecipeError) as error:
            if error.id not in _OF_ONE:
                raise
            return _missing(backend, variant, _OF_ONE[error.id], str(error))

    def candidate(self, backend: Backend, variant: Variant) -> Candidate:
        """One variant on one runtime: plan, graph, engine, contract."""
        from rtc.passes.assign_precision import AssignPrecision
        from rtc.passes.cast_precision import CastPrecision
        from rtc.passes.insert_qdq import InsertQdq

        name = f"{backend.name} {variant}"
        profile, options = self.request.profile, self.recipe.precision
        scheme = replace(backend.scheme(profile), weight_scales=options.weights)
        where = TargetContext(profile, backend.name, scheme, self.recipe.batch)
        assign = AssignPrecision(
            variant=variant,
            observer=options.observer,
            observers=dict(options.observers),
            min_snr_db=options.min_snr_db,
            pin=dict(options.pin),
            residuals=dict(options.residuals),
        )
        assigned = self._pass(assign, self.model, name, target=where)
        plan = assigned.plan
        assert plan is not None, "assign-precision gives a plan"
        repaired, statistics = self._repaired(name, where, plan)
        unit = repaired[-1].unit if repaired else self.model
        quantised = self._pass(
            InsertQdq(),
            unit,
            name,
            target=where,
            plan=plan,
            reference=self.model,
            statistics=statistics,
        )
        cast = self._pass(CastPrecision(), quantised.unit, name, target=where, plan=plan)
        built = self._build(backend, cast.unit, name)
        return Candidate(
            name=name,
            backend=backend.name,
            variant=variant,
            plan=plan,
            graph=cast.unit,
            built=built,
            layers=contract(plan, built.layers, output_shapes(self.model)),
            certificates=tuple(
                replace(step.certificate, stage=f"{step.certificate.stage} ({name})")
                for step in (*repaired, quantised, cast)
            ),
            request=self.request,
        )

    def _repaired(
        self, name: str, target: TargetContext, plan: PrecisionPlan
    ) -> tuple[list[Passed], Statistics]:
        """What mends the candidate, one upon the other, and its ranges; a float one needs none."""
        passed: list[Passed] = []
        statistics = self.context.statistics
        for step in () if plan.is_float else self._mending(plan):
            unit = passed[-1].unit if passed else self.model
            found = self._pass(
                step,
                unit,
                name,
                target=target,
                plan=plan,
                reference=self.model,
                statistics=statistics,
            )
            statistics = found.statistics or statistics
            passed.append(found)
        return passed, statistics

    def _mending(self, plan: PrecisionPlan) -> tuple[Pass, ...]:
        """Ranges taken anew, where the recipe or a residual Add asks for it; then the repairs.

        Repairs look at what the ranges make of the model, so those come first.
        """
        from rtc.passes.calibrate_segments import CalibrateSegments

        everywhere = self.recipe.precision.ranges == "segmented"
        asked = any(d.policy is ResidualPolicy.RECALIBRATED for d in plan.residuals.values())
        anew = (CalibrateSegments(everywhere=everywhere),) if everywhere or asked else ()
        return (*anew, *self.recipe.precision.repairs.steps)

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

    def _build(self, backend: Backend, graph: Unit, name: str) -> Built:
        profile = self.request.profile
        asked = _REQUEST.dump_python(self.request, mode="json")
        inputs = {
            "graph": graph.digest,
            "backend": backend.name,
            "runtime": backend.available().version,
            "request": asked,
            "machine": hardware() if profile.kind == "cpu" else {},
        }

        def work(_: Progress) -> tuple[Files, str]:
            files = sandbox.run(
                "rtc.compiler.building:build_here",
                files={"graph.onnx": graph.onnx.proto},
                args={"backend": backend.name, "request": asked},
                deadline_s=_BUILD_SECONDS,
                memory_gb=_BUILD_GB,
                what=f"building {name}",
            )
            layers = len(json.loads(files["built.json"])["layers"])
            return files, f"{layers} kernels, {size(len(files['engine.bin']))}"

        return built_from_files(self.stages.run(f"build {name}", inputs, work, target=profile.name))


def _missing(backend: Backend, variant: Variant, state: str, reason: str) -> Missing:
    return Missing(f"{backend.name} {variant}", backend.name, variant, state, reason)


def output_shapes(model: Unit) -> dict[str, str]:
    """The shape of each node's first output as text, "batch×8×14×14", where it can be inferred."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model.onnx.proto)).graph
    shapes = {
        tensor.name: "×".join(
            dim.dim_param or str(dim.dim_value) for dim in tensor.type.tensor_type.shape.dim
        )
        for tensor in (*graph.value_info, *graph.output)
    }
    return {node.name: shapes.get(node.output[0], "") for node in graph.node}


def build_here(files: Mapping[str, bytes], args: Mapping[str, Any]) -> dict[str, bytes]:
    """Build in this process, which is a child: `graph.onnx` in, `built_to_files` out."""
    from rtc.targets.loader import backend

    request = _REQUEST.validate_python(args["request"])
    return built_to_files(backend(args["backend"]).build(files["graph.onnx"], request))


def built_to_files(built: Built) -> dict[str, bytes]:
    """What a builder made, as files: `engine.bin` and `built.json`."""
    head = {
        "layers": _LAYERS.dump_python(built.layers, mode="json"),
        "runtime": built.runtime,
        "binding": dict(built.binding),
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
    )
