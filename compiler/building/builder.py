"""A plan realised: its graph written, the engine built in a child process, the contract read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rtc.compiler.building.contract import contract
from rtc.compiler.building.engines import built_by_outcome, built_from_files, built_to_files
from rtc.compiler.core.precision import PrecisionPlan, Variant
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.results import CertificateRow, LayerRow, SearchRow
from rtc.compiler.core.target import Backend, BuildRequest, Built
from rtc.compiler.core.tensors import types_of
from rtc.compiler.core.unit import Unit
from rtc.compiler.documents.build_json import REQUEST
from rtc.compiler.execution.stages import Files
from rtc.compiler.lowering.job import Job
from rtc.compiler.lowering.plan_writer import PlanWriter
from rtc.compiler.measure import fidelity
from rtc.compiler.measure.provenance import hardware
from rtc.compiler.process import sandbox
from rtc.compiler.report.figures import size

_BUILD_SECONDS = 900.0
_BUILD_GB = 16.0


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
class Builder:
    """Builds engines of one job with one runtime."""

    writer: PlanWriter

    @classmethod
    def of(cls, job: Job, backend: Backend) -> Builder:
        """A builder and its plan writer."""
        return cls(PlanWriter(job, backend))

    @property
    def job(self) -> Job:
        """What is built, and for which device."""
        return self.writer.job

    @property
    def backend(self) -> Backend:
        """The runtime that builds."""
        return self.writer.backend

    def realise(self, plan: PrecisionPlan) -> Candidate:
        """The candidate of a plan: every step checked, the engine built and held against the plan.

        Raises:
            GateError: a step broke its bound.
            ModelError, BuilderError, MachineError: the runtime does not build the graph.
        """
        name = f"{self.backend.name} {plan.variant}"
        written = self.writer.written(name, plan)
        graph = written[-1].unit
        built = self.built(graph, name)
        return Candidate(
            name=name,
            backend=self.backend.name,
            variant=plan.variant,
            plan=plan,
            graph=graph,
            built=built,
            layers=contract(plan, built.layers, output_shapes(self.job.model)),
            certificates=tuple(
                replace(row, stage=f"{row.stage} ({name})")
                for step in written
                for row in step.certificates
            ),
            request=replace(self.job.request, forms=built.forms),
        )

    def probe(self, graph: Unit) -> fidelity.Probe:
        """What engines of a graph are held to: calibration samples in the reference."""
        job = self.job
        samples, float_model = job.context.data.calibration, job.model.onnx.proto
        return fidelity.probe(graph.onnx.proto, float_model, samples, job.profile)

    def built(self, graph: Unit, name: str) -> Built:
        """The engine of a graph, made in a child process and, where it runs, held against it.

        Raises:
            ModelError, BuilderError, MachineError: the runtime does not build it, or it computes
                something else at a batch that it is for (id "engine-differs").
        """
        job, backend = self.job, self.backend
        asked = REQUEST.dump_python(job.request, mode="json")
        here = backend.runnable(job.profile).ok
        inputs = {
            "graph": graph.digest,
            "backend": backend.name,
            "runtime": backend.available().version,
            "request": asked,
            "machine": hardware() if job.profile.kind == "cpu" else {},
            "held": [job.model.digest, job.context.data.digest],
        }

        def work(_: Progress) -> tuple[Files, str]:
            probe = {fidelity.FILE: fidelity.packed(self.probe(graph))} if here else {}

            def build(proto: bytes) -> Built:
                files = sandbox.run(
                    "rtc.compiler.building.engines:build_here",
                    files={"graph.onnx": proto, **probe},
                    args={"backend": backend.name, "request": asked},
                    deadline_s=_BUILD_SECONDS,
                    memory_gb=_BUILD_GB,
                    what=f"building {name}",
                )
                return built_from_files(files)

            built = built_by_outcome(backend, graph.onnx.proto, build)
            words = f"{len(built.layers)} kernels, {size(len(built.engine))}"
            return built_to_files(built), words

        found = job.stages.run(f"build {name}", inputs, work, target=job.profile.name, by=[backend])
        return built_from_files(found)


def output_shapes(model: Unit) -> dict[str, str]:
    """The shape of each node's first output as text, "batch×8×14×14", where it can be inferred."""
    import onnx

    proto = onnx.load_from_string(model.onnx.proto)
    shapes = {
        name: "×".join(str(dim) or "?" for dim in tensor.shape or ())
        for name, tensor in types_of(proto, trusting=True).items()
    }
    return {node.name: shapes.get(node.output[0], "") for node in proto.graph.node}
