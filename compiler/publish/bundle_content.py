"""What goes into a bundle: the engine, the graph and plan behind it, and what was found of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rtc.compiler.building.builder import Candidate
from rtc.compiler.bundle import bundles
from rtc.compiler.bundle.engine import FLOAT, GRAPH
from rtc.compiler.core.data import Split
from rtc.compiler.core.hashing import canonical
from rtc.compiler.core.outputs import OutputKind
from rtc.compiler.core.precision import PrecisionPlan
from rtc.compiler.core.results import Report
from rtc.compiler.core.unit import Unit
from rtc.compiler.documents.build_json import BUILT_LAYERS
from rtc.compiler.frontend.float_model import Front
from rtc.compiler.measure import fidelity
from rtc.compiler.measure.provenance import kernels_of
from rtc.compiler.recipe.plan_file import parse_plan, plan_text
from rtc.compiler.recipe.schema import Recipe
from rtc.compiler.report import html, serial
from rtc.compiler.select.choice import Selection

REPORT = "report.json"
PAGE = "report.html"
PLAN = "plan.yaml"


def pack(
    recipe: Recipe,
    front: Front,
    choice: Selection,
    *,
    report: Report,
    calibration: Split,
    output: OutputKind,
    identity: Mapping[str, Any],
) -> tuple[bundles.Manifest, dict[str, bytes]]:
    """The manifest and the files of a bundle."""
    manifest = bundles.Manifest(
        name=recipe.name,
        version=report.version,
        target=report.target,
        passed=report.passed,
        engine=_engine_entry(choice.candidate),
        signature=front.model.signature,
        preprocess=calibration.preprocess,
        output=output,
        sources={"data": identity["data"], "rtc": identity["code"]["rtc"], **identity["files"]},
        versions=identity["versions"],
        certificates=tuple(asdict(row) for row in report.certificates),
        gates=tuple(asdict(row) for row in report.gates),
    )
    return manifest, _files(recipe, front, choice, report, calibration)


def _engine_entry(shipped: Candidate) -> bundles.EngineEntry:
    """What has to be known of the engine before it is loaded."""
    from rtc.targets.loader import backend

    return bundles.EngineEntry(
        backend=shipped.backend,
        file=backend(shipped.backend).engine_file,
        runtime=shipped.built.runtime,
        binding=shipped.built.binding,
        batches=shipped.request.batches,
        threads=shipped.request.threads,
        forms={str(batch): form for batch, form in sorted(shipped.built.forms.items())},
        held_on=_held_on(shipped),
    )


def _files(
    recipe: Recipe, front: Front, choice: Selection, report: Report, calibration: Split
) -> dict[str, bytes]:
    """Everything beside the manifest, by its name in the bundle."""
    from rtc.targets.loader import backend, profile_text

    shipped = choice.candidate
    return {
        backend(shipped.backend).engine_file: shipped.built.engine,
        GRAPH: shipped.graph.onnx.proto,
        FLOAT: front.model.onnx.proto,
        fidelity.FILE: _probe(shipped, front.model, calibration),
        "recipe.yaml": recipe.text.encode(),
        PLAN: plan_text(shipped.plan),
        bundles.PROFILE: profile_text(shipped.request.profile),
        "layers.json": BUILT_LAYERS.dump_json(shipped.built.layers, indent=1),
        "calibration.json": canonical({n: asdict(r) for n, r in front.statistics.items()}),
        REPORT: serial.to_json(report),
        PAGE: html.render(report).encode(),
        **{plan_file(other.name): plan_text(other.plan) for other in choice.others},
    }


def _probe(shipped: Candidate, model: Unit, calibration: Split) -> bytes:
    """Samples that the engine is held to wherever it runs next."""
    graph, profile = shipped.graph.onnx.proto, shipped.request.profile
    known = fidelity.probe(graph, model.onnx.proto, calibration, profile)
    return fidelity.packed(known.stored(), small=True)


def _held_on(shipped: Candidate) -> str:
    here = kernels_of(shipped.built.runtime, shipped.request.profile.kind)
    return here if shipped.built.forms else ""


def plan_file(candidate: str) -> str:
    """The file in a bundle that holds the plan of a candidate which does not ship."""
    return f"plan-{candidate.replace(' ', '-')}.yaml"


def report_of(verified: bundles.Verified) -> Report:
    """The report in a bundle."""
    return serial.from_json(verified.files[REPORT])


def plan_of(verified: bundles.Verified) -> PrecisionPlan:
    """The plan in a bundle."""
    return parse_plan(verified.files[PLAN], f"{verified.path}/{PLAN}")
