"""How many CPU threads engines get: as many as they are fastest with.

A small network is often fastest with one thread: more of them wait for each other longer than they
compute (ResNet-20 at batch 1 in OpenVINO on a Xeon with two cores: 162 µs with one, 415 µs with
two). So a runtime's float engine and its INT8 engine are each timed with a few numbers of threads,
all in turns; speeds are compared round by round. Where a batch takes long, all cores pay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from rtc.compiler.building import Builder
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import RtcError
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.target import Backend, BuildRequest
from rtc.compiler.measure.latency import Bench, Case, engine_subject
from rtc.compiler.measure.provenance import hardware, physical_cores
from rtc.compiler.measure.worker import FORWARD
from rtc.compiler.report.figures import amount
from rtc.compiler.stages import Files

WORTH = 1.03  # times faster than with fewer threads that more of them have to be
LONG_MS = 50.0  # a batch that takes longer with all cores is not tried with fewer
_SECONDS = 1.5  # of all timings
_REQUEST: TypeAdapter[BuildRequest] = TypeAdapter(BuildRequest)


@dataclass(frozen=True)
class Timing:
    """One variant's engine with some threads.

    Attributes:
        variant, threads: which.
        ms: median latency of a batch.
        speed: how many times faster it is than with the first number, by round.
    """

    variant: Variant
    threads: int
    ms: float
    speed: float


_TIMINGS: TypeAdapter[tuple[Timing, ...]] = TypeAdapter(tuple[Timing, ...])


def counts(cores: int) -> tuple[int, ...]:
    """Numbers of threads to try: one, a quarter, a half, and all cores."""
    return tuple(sorted({1, max(1, cores // 4), max(1, cores // 2), cores}))


def chosen(timings: Sequence[Timing]) -> dict[Variant, int]:
    """The threads of each variant: of the fastest, or fewer where they are hardly slower."""
    best: dict[Variant, int] = {}
    for variant in dict.fromkeys(each.variant for each in timings):
        own = [each for each in timings if each.variant is variant]
        most = max(each.speed for each in own)
        best[variant] = min(each.threads for each in own if each.speed * WORTH >= most)
    return best


def threads_of(builder: Builder, backend: Backend) -> dict[Variant, int]:
    """The number of threads that each variant is fastest with on a runtime.

    Empty where the recipe says how many, or where engines do not run on this machine's CPU. Other
    float variants go with the one that was timed, the mix with INT8. Should it fail, a warning says
    so, and the runtime's own choice stands.
    """
    request = builder.request
    if request.threads or request.profile.kind != "cpu" or physical_cores() == 1:
        return {}
    if not backend.runnable(request.profile).ok:
        return {}
    try:
        with builder.stages.together(f"threads {backend.name}", request.profile.name) as stages:
            found = _timings(replace(builder, stages=stages), backend)
    except RtcError as error:
        builder.stages.listener.warned(
            f"{backend.name} runs with its own number of threads: trying others failed: {error}"
            " (measure.threads fixes it)"
        )
        return {}
    best = chosen(found)
    floats = next((n for variant, n in best.items() if variant is not Variant.INT8), None)
    integers = best.get(Variant.INT8)
    of = {
        Variant.FP32: floats or integers,
        Variant.HALF: floats or integers,
        Variant.INT8: integers or floats,
        Variant.MIX: integers or floats,
    }
    return {variant: count for variant, count in of.items() if count}


def _engines(builder: Builder, backend: Backend) -> Iterator[tuple[Variant, bytes]]:
    """The float engine and the INT8 one, of those on offer; one that fails is told of later."""
    left_out = backend.variants(builder.request.profile)
    offered = [v for v in builder.recipe.precision.offer if v not in left_out]
    halves = [v for v in (Variant.HALF, Variant.FP32) if v in offered]
    for variant in (*halves[:1], *(v for v in offered if v is Variant.INT8)):
        try:
            yield variant, builder.candidate(backend, variant).built.engine
        except RtcError:
            continue


def _timings(builder: Builder, backend: Backend) -> tuple[Timing, ...]:
    request, samples = builder.request, builder.context.data.calibration
    engines = dict(_engines(builder, backend))
    if not engines:
        return ()
    inputs = {
        "engines": {variant.value: digest(engine) for variant, engine in engines.items()},
        "backend": backend.name,
        "runtime": backend.available().version,
        "request": _REQUEST.dump_python(request, mode="json"),
        "machine": hardware(),
    }

    def work(_: Progress) -> tuple[Files, str]:
        found = _timed(engines, backend, request, samples, builder.recipe.seed)
        return {"timings.json": _TIMINGS.dump_json(found)}, _words(found)

    files = builder.stages.run("threads", inputs, work, target=request.profile.name)
    return _TIMINGS.validate_json(files["timings.json"])


def _timed(
    engines: Mapping[Variant, bytes],
    backend: Backend,
    request: BuildRequest,
    samples: Split,
    seed: int,
) -> tuple[Timing, ...]:
    """Every engine with every number of threads; with all cores alone where that takes long."""
    cores, case = physical_cores(), Case(FORWARD, request.batches[1])
    pairs = [(variant, count) for count in counts(cores)[::-1] for variant in engines]
    subjects = {
        pair: engine_subject(
            f"{pair[0]}, {pair[1]} threads",
            backend.name,
            engines[pair[0]],
            replace(request, threads=pair[1]),
        )
        for pair in pairs
    }
    with Bench([subjects[pairs[0]]], samples, (case.batch,)) as bench:
        bench.refuse_failures()
        ms = bench.typical_ms(subjects[pairs[0]].name, case)
        if ms > LONG_MS:
            return tuple(Timing(variant, cores, ms, 1.0) for variant in engines)
        for pair in pairs[1:]:
            bench.start(subjects[pair])
        compared = bench.time(_SECONDS, modes=(FORWARD,), seed=seed)
        bench.refuse_failures()
    first = {variant: subjects[variant, counts(cores)[0]].name for variant in engines}
    return tuple(
        Timing(
            variant=pair[0],
            threads=pair[1],
            ms=compared.measured(subject.name, case, "").value,
            speed=compared.speedup(subject.name, first[pair[0]], case).value,
        )
        for pair, subject in subjects.items()
    )


def _words(found: Sequence[Timing]) -> str:
    """In words like: "fp32 2 (1: 872 µs, 2: 761 µs), int8 1 (1: 562 µs, 2: 589 µs) of 2"."""
    told = []
    for variant, count in chosen(found).items():
        own = sorted((each.threads, each.ms) for each in found if each.variant is variant)
        times = ", ".join(f"{threads}: {amount(ms, 'ms')}" for threads, ms in own)
        told.append(f"{variant} {count} ({times})")
    return f"{', '.join(told)} of {physical_cores()}"
