"""How fast runtimes are before any search: with how many CPU threads, and against each other.

A small network is often fastest with one thread: more of them wait for each other longer than they
compute (ResNet-20 at batch 1 in OpenVINO on a Xeon with two cores: 162 µs with one, 415 µs with
two). So each runtime's float engine and its INT8 engine are timed with a few numbers of threads,
all in turns; speeds are compared round by round. Where a batch takes long, all cores pay: what
threads wait for each other grows with their number, not with what they compute.

A runtime that is behind another in float, and far behind with the faster of its two engines, gets
no search: a mix of its kernels beats the faster of its two ends by a few per cent, seldom more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from rtc.compiler.building.builder import Builder, Candidate
from rtc.compiler.candidates.offer import candidate
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import RtcError
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.target import Backend, BuildRequest
from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.documents.build_json import REQUEST
from rtc.compiler.execution.stages import Files
from rtc.compiler.lowering.job import Job
from rtc.compiler.measure.comparison import Case, Subject, engine_subject
from rtc.compiler.measure.latency import Bench
from rtc.compiler.measure.provenance import hardware, physical_cores
from rtc.compiler.report.figures import amount

WORTH = 1.03  # times faster than with fewer threads that more of them have to be
LONG_MS = 1.0  # for each core: a batch that takes longer with all of them is not tried with fewer
SLOW_MS = 100.0  # where any batch takes longer, three of each tell enough
_BEHIND = 1.25  # times slower than another runtime: no mix makes that good
_SECONDS = 1.5  # of each runtime's timings
_Which = tuple[str, Variant, int]  # the runtime's name, the variant, the threads


@dataclass(frozen=True)
class Timing:
    """One engine with some threads.

    Attributes:
        backend, variant, threads: which.
        ms: median latency of a batch.
        speed: how many times faster it is than the first of them all, by round.
    """

    backend: str
    variant: Variant
    threads: int
    ms: float
    speed: float


_TIMINGS: TypeAdapter[tuple[Timing, ...]] = TypeAdapter(tuple[Timing, ...])


@dataclass(frozen=True)
class Pace:
    """What is known of a runtime before any search.

    Attributes:
        threads: the number that each variant is fastest with; where none is given, the recipe's or
            the runtime's own choice stands.
        behind: why a search on it cannot pay, or "".
    """

    threads: Mapping[Variant, int] = field(default_factory=dict)
    behind: str = ""


def paces(job: Job, backends: Sequence[Backend]) -> dict[str, Pace]:
    """The pace of each runtime, by its name.

    Nothing is known where engines do not run on this machine's CPU, nor of a runtime that fails: a
    warning says so. Other float variants go with the one that was timed, the mix with INT8.
    """
    request = job.request
    nothing = {backend.name: Pace() for backend in backends}
    runnable = [backend for backend in backends if backend.runnable(request.profile).ok]
    tried = _counts(request)
    if request.profile.kind != "cpu" or len(runnable) * len(tried) < 2:
        return nothing
    try:
        with job.stages.together("threads", request.profile.name) as stages:
            timings = _timings(replace(job, stages=stages), runnable, tried)
    except RtcError as error:
        job.stages.listener.warned(
            f"runtimes have their own number of threads: trying others failed: {error}"
            " (measure.threads fixes it)"
        )
        return nothing
    behind, known = _behind(timings), dict(nothing)
    for name in dict.fromkeys(timing.backend for timing in timings):
        best = {} if request.threads else chosen([t for t in timings if t.backend == name])
        known[name] = Pace(best, behind.get(name, ""))
    return known


def _counts(request: BuildRequest) -> tuple[int, ...]:
    """Numbers of threads to try: the one that is asked for, if one is."""
    return (request.threads,) if request.threads else counts(physical_cores())


def counts(cores: int) -> tuple[int, ...]:
    """Numbers of threads to try: one, a quarter, a half, and all cores."""
    return tuple(sorted({1, max(1, cores // 4), max(1, cores // 2), cores}))


def chosen(timings: Sequence[Timing]) -> dict[Variant, int]:
    """The threads of each variant of one runtime, from the timings of its engines."""
    best = _fewest(timings)
    floats = next((n for variant, n in best.items() if variant is not Variant.INT8), None)
    integers = best.get(Variant.INT8)
    of = {
        Variant.FP32: floats or integers,
        Variant.HALF: floats or integers,
        Variant.INT8: integers or floats,
        Variant.MIX: integers or floats,
    }
    return {variant: count for variant, count in of.items() if count}


def _fewest(timings: Sequence[Timing]) -> dict[Variant, int]:
    """The threads of the fastest, or fewer where they are hardly slower."""
    best: dict[Variant, int] = {}
    for variant in dict.fromkeys(timing.variant for timing in timings):
        own = [timing for timing in timings if timing.variant is variant]
        most = max(each.speed for each in own)
        best[variant] = min(each.threads for each in own if each.speed * WORTH >= most)
    return best


def _behind(timings: Sequence[Timing]) -> dict[str, str]:
    """In words, of each runtime that is far behind: how far behind what its fastest engine is.

    Only of two runtimes that show both their ends, float and INT8.
    """
    ends: dict[str, dict[Variant, Timing]] = {}
    for timing in timings:
        own = ends.setdefault(timing.backend, {})
        if timing.variant not in own or timing.speed > own[timing.variant].speed:
            own[timing.variant] = timing
    whole = {name: own for name, own in ends.items() if len(own) > 1}
    if not whole:
        return {}
    best = {name: max(own.values(), key=lambda t: t.speed) for name, own in whole.items()}
    first = max(best.values(), key=lambda t: t.speed)
    ahead = _float_speed(whole[first.backend])
    return {
        name: f"no search: {name} {own.variant} takes {first.speed / own.speed:.2f} times what"
        f" {first.backend} {first.variant} takes"
        for name, own in best.items()
        if first.speed / own.speed > _BEHIND and _float_speed(whole[name]) < ahead
    }


def _float_speed(ends: Mapping[Variant, Timing]) -> float:
    return max(end.speed for variant, end in ends.items() if variant is not Variant.INT8)


def _engines(job: Job, backend: Backend) -> Iterator[tuple[Variant, Candidate]]:
    """The float engine and the INT8 one, of those on offer; one that fails is told of later."""
    left_out = backend.variants(job.request.profile)
    offered = [v for v in job.recipe.precision.offer if v not in left_out]
    halves = [v for v in (Variant.HALF, Variant.FP32) if v in offered]
    for variant in (*halves[:1], *(v for v in offered if v is Variant.INT8)):
        try:
            yield variant, candidate(Builder.of(job, backend), variant)
        except RtcError:
            continue


def _timings(job: Job, backends: Sequence[Backend], tried: Sequence[int]) -> tuple[Timing, ...]:
    request, samples = job.request, job.context.data.calibration
    most = job.with_threads(max(tried))  # mostly the number that it stays at
    engines = {
        (backend.name, variant): each
        for backend in backends
        for variant, each in _engines(most, backend)
    }
    builders = {backend.name: Builder.of(job, backend) for backend in backends}
    if not engines:
        return ()
    inputs = {
        "engines": {f"{name} {v}": digest(e.built.engine) for (name, v), e in engines.items()},
        "data": job.context.data.digest,
        "runtimes": {backend.name: backend.available().version for backend in backends},
        "threads": list(tried),
        "request": REQUEST.dump_python(request, mode="json"),
        "machine": hardware(),
    }

    def work(_: Progress) -> tuple[Files, str]:
        subjects = {
            (name, variant, count): engine_subject(
                f"{name} {variant}, {count} threads",
                name,
                engine.built.engine,
                replace(request, threads=count),
                builders[name].probe(engine.graph),
            )
            for count in sorted(tried, reverse=True)
            for (name, variant), engine in engines.items()
        }
        case = Case(LatencyMode.FORWARD, request.batches[1])
        timings, failed = timed(subjects, samples, case, job.recipe.seed)
        for name, error in failed.items():
            job.stages.listener.warned(
                f"{name} runs with its own number of threads: {error} (measure.threads fixes it)"
            )
        return {"timings.json": _TIMINGS.dump_json(timings)}, _words(timings)

    files = job.stages.run("threads", inputs, work, target=request.profile.name, by=backends)
    return _TIMINGS.validate_json(files["timings.json"])


def timed(
    subjects: Mapping[_Which, Subject], samples: Split, case: Case, seed: int
) -> tuple[tuple[Timing, ...], dict[str, RtcError]]:
    """Timings of every engine: with the most threads, and with fewer where that is no long time.

    A runtime of which an engine fails has none; the errors go by its name.

    Raises:
        RtcError: every runtime failed.
    """
    most = max(threads for *_, threads in subjects)
    full = {which: subject for which, subject in subjects.items() if which[2] == most}
    names = {subject.name: which for which, subject in subjects.items()}
    with Bench(list(full.values()), samples, (case.batch,)) as bench:
        rough = _rough(full, bench, case)
        if max(rough.values(), default=0.0) <= SLOW_MS:
            for which, subject in subjects.items():
                if which not in full and rough.get((*which[:2], most), math.inf) <= LONG_MS * most:
                    bench.start(subject)
            seconds = _SECONDS * len({name for name, *_ in subjects})
            compared = bench.time(seconds, modes=(LatencyMode.FORWARD,), seed=seed)
            first = next(iter(compared.series[case]), "")
            timings = [
                Timing(
                    *names[name],
                    ms=compared.measured(name, case, "").value,
                    speed=compared.speedup(name, first, case).value,
                )
                for name in compared.series[case]
            ]
        else:
            first_ms = next(iter(rough.values()))
            timings = [Timing(*which, ms=ms, speed=first_ms / ms) for which, ms in rough.items()]
        failed = {names[name][0]: error for name, error in bench.failures.items()}
        kept = tuple(timing for timing in timings if timing.backend not in failed)
        if not kept:
            bench.refuse_failures()
    return kept, failed


def _rough(subjects: Mapping[_Which, Subject], bench: Bench, case: Case) -> dict[_Which, float]:
    """Milliseconds of a batch of each that runs; the bench remembers why another does not."""
    fastest: dict[_Which, float] = {}
    for which, subject in subjects.items():
        if subject.name in bench.running:
            with suppress(RtcError):
                fastest[which] = bench.typical_ms(subject.name, case)
    return fastest


def _words(timings: Sequence[Timing]) -> str:
    """In words like: "openvino: fp32 2 (1: 872 µs, 2: 761 µs), int8 1 (1: 562 µs, 2: 589 µs)"."""
    return "; ".join(
        f"{name}: {_words_of([timing for timing in timings if timing.backend == name])}"
        for name in dict.fromkeys(timing.backend for timing in timings)
    )


def _words_of(own: Sequence[Timing]) -> str:
    words = []
    for variant, count in _fewest(own).items():
        seen = sorted((each.threads, each.ms) for each in own if each.variant is variant)
        times = ", ".join(f"{threads}: {amount(ms, 'ms')}" for threads, ms in seen)
        words.append(f"{variant} {count} ({times})")
    return ", ".join(words)
