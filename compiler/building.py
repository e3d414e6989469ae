"""Candidates: the float model in one variant of precision, built by one runtime, held to its plan."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from rtc.compiler import sandbox
from rtc.compiler.contract import contract
from rtc.compiler.core.errors import BuilderError, GateError, ModelError
from rtc.compiler.core.hashing import canonical
from rtc.compiler.core.passes import PassContext, TargetContext
from rtc.compiler.core.precision import PrecisionPlan, Variant
from rtc.compiler.core.target import Backend, BuildRequest, Built, BuiltLayer
from rtc.compiler.core.unit import Unit
from rtc.compiler.measure.provenance import machine
from rtc.compiler.passing import run_pass
from rtc.compiler.recipe import Recipe
from rtc.compiler.report.model import CertificateRow, LayerRow
from rtc.compiler.stages import Files, Stages

_BUILD_SECONDS = 900.0
_BUILD_GB = 16.0
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


def candidates(
    recipe: Recipe,
    model: Unit,
    ctx: PassContext,
    backend: Backend,
    request: BuildRequest,
    stages: Stages,
) -> Iterator[Candidate | Missing]:
    """Every variant that the recipe offers, on one runtime.

    A variant whose build fails is a row with its reason; the others go on.
    """
    left_out = backend.variants(request.profile)
    scheme = backend.scheme(request.profile)
    where = TargetContext(request.profile, backend.name, scheme, recipe.batch)
    for variant in recipe.precision.offer:
        name = f"{backend.name} {variant}"
        if variant in left_out:
            yield Missing(name, backend.name, variant, "left out", left_out[variant])
            continue
        try:
            yield _candidate(
                recipe, model, replace(ctx, target=where), backend, variant, request, stages
            )
        except (BuilderError, ModelError, GateError) as error:
            yield Missing(name, backend.name, variant, "failed", str(error))


def _candidate(
    recipe: Recipe,
    model: Unit,
    ctx: PassContext,
    backend: Backend,
    variant: Variant,
    request: BuildRequest,
    stages: Stages,
) -> Candidate:
    from rtc.passes.assign_precision import AssignPrecision
    from rtc.passes.cast_precision import CastPrecision
    from rtc.passes.insert_qdq import InsertQdq

    options = recipe.precision
    assign = AssignPrecision(
        variant=variant,
        observer=options.observer,
        min_snr_db=options.min_snr_db,
        pin=dict(options.pin),
    )
    name = f"{backend.name} {variant}"
    assigned = run_pass(assign, model, ctx, stages, label=f"assign-precision {name}")
    assert assigned.plan is not None, "assign-precision gives a plan"
    ctx = replace(ctx, plan=assigned.plan)
    quantised = run_pass(InsertQdq(), model, ctx, stages, label=f"insert-qdq {name}")
    cast = run_pass(CastPrecision(), quantised.unit, ctx, stages, label=f"cast-precision {name}")
    built = _build(backend, cast.unit, request, stages, name)
    return Candidate(
        name=name,
        backend=backend.name,
        variant=variant,
        plan=assigned.plan,
        graph=cast.unit,
        built=built,
        layers=contract(assigned.plan, built.layers, output_shapes(model)),
        certificates=tuple(
            replace(step.certificate, stage=f"{step.certificate.stage} ({name})")
            for step in (quantised, cast)
        ),
        request=request,
    )


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


def _build(
    backend: Backend, graph: Unit, request: BuildRequest, stages: Stages, name: str
) -> Built:
    asked = _REQUEST.dump_python(request, mode="json")
    inputs = {
        "graph": graph.digest,
        "backend": backend.name,
        "runtime": backend.available().version,
        "request": asked,
        "machine": machine() if request.profile.kind == "cpu" else "",
    }

    def work(progress: Any) -> tuple[Files, str]:
        files = sandbox.run(
            "rtc.compiler.building:build_here",
            files={"graph.onnx": graph.onnx.proto},
            args={"backend": backend.name, "request": asked},
            deadline_s=_BUILD_SECONDS,
            memory_gb=_BUILD_GB,
            what=f"building {name}",
        )
        layers = len(json.loads(files["built.json"])["layers"])
        size = len(files["engine.bin"]) / 1024
        return files, f"{layers} kernels, {size:.0f} KiB"

    files = stages.run(f"build {name}", inputs, work, target=request.profile.name)
    return built_from_files(files)


def build_here(files: Mapping[str, bytes], args: Mapping[str, Any]) -> dict[str, bytes]:
    """Build in this process, which is a child: takes `graph.onnx`, gives the engine and its layers."""
    from rtc.targets.loader import backend

    request = _REQUEST.validate_python(args["request"])
    return built_to_files(backend(args["backend"]).build(files["graph.onnx"], request))


def built_to_files(built: Built) -> dict[str, bytes]:
    """What a builder made, as files: `engine.bin` and `built.json`."""
    head = {
        "layers": _LAYERS.dump_python(built.layers, mode="json"),
        "runtime": built.runtime,
        "binding": dict(built.binding),
        "details": dict(built.details),
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
        details=head["details"],
    )
