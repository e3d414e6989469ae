"""How fast runtimes are before any search: with how many CPU threads, and against each other.

A small network is often fastest with one thread: more of them wait for each other longer than they
compute (ResNet-20 at batch 1 in OpenVINO on a Xeon with two cores: 162 µs with one, 415 µs with
two). So each runtime's float engine and its INT8 engine are timed with a few numbers of threads,
all in turns; speeds are compared round by round. Where a batch takes long, all cores pay: what
threads wait for each other grows with their number, not with what they compute.

A runtime whose fastest engine is far behind another's gets no search: a mix of its kernels beats
the faster of its two ends by a few per cent, seldom more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
LONG_MS = 1.0  # for each core: a batch that takes longer with all of them is not tried with fewer
_TOO_LONG_MS = 1000.0  # and one that takes longer than this is not timed
_BEHIND = 1.25  # times slower than another runtime: no mix makes that good
_SECONDS = 1.5  # of each runtime's timings
_REQUEST: TypeAdapter[BuildRequest] = TypeAdapter(BuildRequest)


@dataclass(frozen=True)
class Timing:
    """One engine with some threads.

    Attributes:
        backend, variant, threads: which.
        ms: median latency of a batch.
        speed: how many times faster it is than the first of them all, by round; 1 if not timed.
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


def paces(builder: Builder, backends: Sequence[Backend]) -> dict[str, Pace]:
    """The pace of each runtime, by its name.

    Nothing is known where the recipe says how many threads there are, or where engines do not run
    on this machine's CPU. Other float variants go with the one that was timed, the mix with INT8.
    Should a runtime fail, a warning says so.
    """
    nothing = {backend.name: Pace() for backend in backends}
    request = builder.request
    if request.threads or request.profile.kind != "cpu" or physical_cores() == 1:
        return nothing
    there = [backend for backend in backends if backend.runnable(request.profile).ok]
    try:
        with builder.stages.together("threads", request.profile.name) as stages:
            found = _timings(replace(builder, stages=stages), there)
    except RtcError as error:
        builder.stages.listener.warned(
            f"runtimes have their own number of threads: trying others failed: {error}"
            " (measure.threads fixes it)"
        )
        return nothing
    behind = _behind(found)
    known = {
        name: Pace(chosen([t for t in found if t.backend == name]), behind.get(name, ""))
        for name in dict.fromkeys(timing.backend for timing in found)
    }
    return nothing | known


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
    for variant in dict.fromkeys(each.variant for each in timings):
        own = [each for each in timings if each.variant is variant]
        most = max(each.speed for each in own)
        best[variant] = min(each.threads for each in own if each.speed * WORTH >= most)
    return best


def _behind(found: Sequence[Timing]) -> dict[str, str]:
    """In words, of each runtime that is far behind: how far behind what its fastest engine is."""
    best: dict[str, Timing] = {}
    for timing in found:
        if timing.backend not in best or timing.speed > best[timing.backend].speed:
            best[timing.backend] = timing
    if not best:
        return {}
    first = max(best.values(), key=lambda timing: timing.speed)
    return {
        name: f"no search: {name} {own.variant} takes {first.speed / own.speed:.2f} times what"
        f" {first.backend} {first.variant} takes"
        for name, own in best.items()
        if first.speed / own.speed > _BEHIND
    }


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


def _timings(builder: Builder, backends: Sequence[Backend]) -> tuple[Timing, ...]:
    request, samples = builder.request, builder.context.data.calibration
    engines = {
        (backend.name, variant): engine
        for backend in backends
        for variant, engine in _engines(builder, backend)
    }
    if not engines:
        return ()
    inputs = {
        "engines": {f"{name} {v}": digest(engine) for (name, v), engine in engines.items()},
        "runtimes": {backend.name: backend.available().version for backend in backends},
        "request": _REQUEST.dump_python(request, mode="json"),
        "machine": hardware(),
    }

    def work(_: Progress) -> tuple[Files, str]:
        found = _timed(engines, request, samples, builder.recipe.seed)
        return {"timings.json": _TIMINGS.dump_json(found)}, _words(found)

    files = builder.stages.run("threads", inputs, work, target=request.profile.name)
    return _TIMINGS.validate_json(files["timings.json"])


Engines = Mapping[tuple[str, Variant], bytes]


def _timed(
    engines: Engines, request: BuildRequest, samples: Split, seed: int
) -> tuple[Timing, ...]:
    """Every engine with every number of threads; with all cores alone where that takes long."""
    cores, case = physical_cores(), Case(FORWARD, request.batches[1])
    subjects = {
        (*which, count): engine_subject(
            f"{which[0]} {which[1]}, {count} threads",
            which[0],
            engine,
            replace(request, threads=count),
        )
        for count in counts(cores)[::-1]
        for which, engine in engines.items()
    }
    full = {key: subject for key, subject in subjects.items() if key[2] == cores}
    with Bench(list(full.values()), samples, (case.batch,)) as bench:
        bench.refuse_failures()
        typical = {which: bench.typical_ms(full[(*which, cores)].name, case) for which in engines}
        if max(typical.values()) > _TOO_LONG_MS:
            return tuple(Timing(*which, cores, ms, 1.0) for which, ms in typical.items())
        for key, subject in subjects.items():
            if key not in full and typical[key[:2]] <= LONG_MS * cores:
                bench.start(subject)
        seconds = _SECONDS * len({backend for backend, _ in engines})
        compared = bench.time(seconds, modes=(FORWARD,), seed=seed)
        bench.refuse_failures()
    timed = {key: s.name for key, s in subjects.items() if s.name in compared.series[case]}
    first = next(iter(timed.values()))
    return tuple(
        Timing(
            *key,
            ms=compared.measured(name, case, "").value,
            speed=compared.speedup(name, first, case).value,
        )
        for key, name in timed.items()
    )


def _words(found: Sequence[Timing]) -> str:
    """In words like: "openvino: fp32 2 (1: 872 µs, 2: 761 µs), int8 1 (1: 562 µs, 2: 589 µs)"."""
    return "; ".join(
        f"{name}: {_words_of([timing for timing in found if timing.backend == name])}"
        for name in dict.fromkeys(timing.backend for timing in found)
    )


def _words_of(own: Sequence[Timing]) -> str:
    told = []
    for variant, count in _fewest(own).items():
        seen = sorted((each.threads, each.ms) for each in own if each.variant is variant)
        times = ", ".join(f"{threads}: {amount(ms, 'ms')}" for threads, ms in seen)
        told.append(f"{variant} {count} ({times})")
    return ", ".join(told)
