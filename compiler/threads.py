"""How many CPU threads a runtime's engines get: as many as the fastest of them is fastest with.

A small network is often fastest with one thread: more of them wait for each other longer than they
compute (ResNet-20 at batch 1 in OpenVINO on a Xeon with two cores: 162 µs with one, 415 µs with
two). So each variant that the recipe offers is timed with 1, 2, 4, … threads, in turns, in one
process; the fastest pair of variant and number decides for the runtime. Speeds are ratios within a
round: what else the machine does falls on all alike.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from rtc.compiler import sandbox
from rtc.compiler.building import Builder, Candidate
from rtc.compiler.core.errors import BuilderError, GateError, MachineError, ModelError, RecipeError
from rtc.compiler.core.hashing import canonical, digest
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.target import Backend, BuildRequest
from rtc.compiler.measure import worker
from rtc.compiler.measure.provenance import hardware, physical_cores
from rtc.compiler.measure.statistics import Floats, ratio_by_rounds
from rtc.compiler.report.figures import amount
from rtc.compiler.stages import Files

ROUNDS = 25
SLICE_S = 0.015  # of one engine's turn
WORTH = 1.03  # times faster than with fewer threads that more of them have to be
_DEADLINE_S = 600.0
_MEMORY_GB = 16.0
_REQUEST: TypeAdapter[BuildRequest] = TypeAdapter(BuildRequest)


@dataclass(frozen=True)
class Timing:
    """One variant's engine with some threads.

    Attributes:
        variant, threads: which.
        us: median microseconds of a batch.
        speed: how many times faster it is than the first that was timed, by round.
    """

    variant: str
    threads: int
    us: float
    speed: float


def counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4, … and all cores."""
    doubled = (1 << i for i in range(cores.bit_length()))
    return tuple(sorted({*(count for count in doubled if count < cores), cores}))


def chosen(timings: Sequence[Timing]) -> int:
    """The threads of the fastest, or fewer where they are hardly slower."""
    best: dict[int, float] = {}
    for each in timings:
        best[each.threads] = max(best.get(each.threads, 0.0), each.speed)
    most = max(best.values())
    return min(count for count, speed in best.items() if speed * WORTH >= most)


def tuned(builder: Builder, backend: Backend) -> Builder:
    """The builder with the number of threads that this runtime is fastest with.

    As it is where the recipe says how many, or where engines do not run on this machine's CPU.
    """
    request = builder.request
    if request.threads or request.profile.kind != "cpu" or physical_cores() == 1:
        return builder
    if not backend.runnable(request.profile).ok:
        return builder
    name = f"threads {backend.name}"
    with builder.stages.together(name, request.profile.name) as stages:
        inner = replace(builder, stages=stages)
        engines = dict(_engines(inner, backend))
        found = _timings(inner, backend, engines) if engines else []
    if not found:
        return builder
    return replace(builder, request=replace(request, threads=chosen(found)))


def _engines(builder: Builder, backend: Backend) -> Iterator[tuple[str, bytes]]:
    """An engine of each variant that needs no search; what cannot be built is told of later."""
    left_out = backend.variants(builder.request.profile)
    for variant in builder.recipe.precision.offer:
        if variant is Variant.MIX or variant in left_out:
            continue
        try:
            found: Candidate = builder.candidate(backend, variant)
        except (BuilderError, ModelError, GateError, MachineError, RecipeError):
            continue
        yield str(variant), found.built.engine


def _timings(builder: Builder, backend: Backend, engines: Mapping[str, bytes]) -> list[Timing]:
    request, samples = builder.request, builder.context.data.calibration
    asked = _REQUEST.dump_python(request, mode="json")
    inputs = {
        "engines": {name: digest(engine) for name, engine in engines.items()},
        "backend": backend.name,
        "runtime": backend.available().version,
        "request": asked,
        "machine": hardware(),
    }

    def work(_: Progress) -> tuple[Files, str]:
        batch = request.batches[1]
        raw = worker.batches(samples.raw[:batch], batch)[0]
        head, content = worker.packed(samples.preprocess(raw))
        files = sandbox.run(
            f"{__name__}:time_here",
            files={**engines, "inputs": content},
            args={
                "backend": backend.name,
                "request": asked,
                "inputs": head,
                "counts": counts(physical_cores()),
                "seed": builder.recipe.seed,
            },
            deadline_s=_DEADLINE_S,
            memory_gb=_MEMORY_GB,
            what=f"timing {backend.name} with more and fewer threads",
        )
        return files, _words(_timings_of(files))

    files = builder.stages.run("threads", inputs, work, target=request.profile.name)
    return _timings_of(files)


def _timings_of(files: Files) -> list[Timing]:
    return [Timing(**row) for row in json.loads(files["timings.json"])]


def _words(found: Sequence[Timing]) -> str:
    best = max(found, key=lambda each: each.speed)
    same = (each for each in found if each.variant == best.variant)
    told = ", ".join(f"{each.threads}: {amount(each.us / 1e3, 'ms')}" for each in same)
    count = chosen(found)
    return (
        f"{count} thread{'s' if count > 1 else ''} of {physical_cores()} ({best.variant}, {told})"
    )


def time_here(files: Files, args: Mapping[str, Any]) -> dict[str, bytes]:
    """Time every engine with every number of threads in this process, which is a child."""
    from rtc.targets import loader

    backend = loader.backend(args["backend"])
    request = _REQUEST.validate_python(args["request"])
    inputs = worker.unpacked(files["inputs"], args["inputs"])
    names = [name for name in files if name != "inputs"]
    rounds: dict[tuple[str, int], list[Floats]] = {}
    with ExitStack() as stack:
        runners = {}
        for name in names:
            for count in args["counts"]:
                runner = backend.load(files[name], replace(request, threads=count))
                runners[name, count] = stack.enter_context(runner)
                runner.bind({runner.signature.inputs[0].name: inputs})
                worker.timed(runner.enqueue, 2, 1)
        order = random.Random(args["seed"])  # noqa: S311 - an order of turns is no secret
        for _ in range(ROUNDS):
            for key in order.sample(list(runners), len(runners)):
                step = runners[key].enqueue
                once = worker.timed(step, 1, 1)[0] / 1e9
                taken = worker.timed(step, 1, max(1, round(SLICE_S / max(once, 1e-6))))
                rounds.setdefault(key, []).append(taken / 1e3)
    first = rounds[next(iter(runners))]
    found = [
        Timing(
            name,
            count,
            float(np.median(np.concatenate(taken))),
            ratio_by_rounds(first, taken, resamples=1).value,
        )
        for (name, count), taken in rounds.items()
    ]
    return {"timings.json": canonical([asdict(each) for each in found])}
