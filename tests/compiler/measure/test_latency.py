"""Real runtimes in real processes, taking turns; and subjects that fail on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import small_models

from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.evidence import Measured
from rtc.compiler.core.intervals import Interval
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.core.unit import TorchModel, Unit
from rtc.compiler.measure import fidelity, worker
from rtc.compiler.measure.comparison import (
    MODES,
    Case,
    Comparison,
    Series,
    Subject,
    engine_subject,
    float_subject,
)
from rtc.compiler.measure.latency import ROUNDS, Bench
from rtc.targets import loader

DATA = small_models.samples(20)
LOGITS = DATA.inputs() @ small_models.WEIGHTS
EAGER = Unit(TorchModel("small_models:torch_linear"), small_models.signature())
BATCHES = (1, 8)


def broken(name: str, entry: str) -> Subject:
    files = small_models.linear().to_files()
    return Subject(name, f"small_models:{entry}", files, {"threads": 1})


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    request = BuildRequest(loader.profile("cpu"), (1, 8, 8), threads=1)
    subjects = [
        float_subject("torch eager", EAGER, threads=1),
        float_subject("reference", small_models.linear(), threads=1),
        engine_subject("ort", "onnxruntime", small_models.linear().onnx.proto, request),
        engine_subject("no engine", "onnxruntime", b"", request),
        broken("dies when timed", "dies_when_timed"),
        broken("forgetful", "forgetful"),
    ]
    with Bench(subjects, DATA, BATCHES) as bench:
        yield bench


@pytest.fixture(scope="module")
def comparison(bench: Bench) -> Comparison:
    return bench.time(0.5, seed=3)


def test_a_subject_that_does_not_start_is_out_with_its_reason(bench: Bench) -> None:
    assert "no engine" not in bench.running
    assert bench.failures["no engine"].exit_code == 3


@pytest.mark.parametrize("name", ["torch eager", "reference", "ort"])
def test_logits_are_the_models_for_every_sample_the_last_batch_too(bench: Bench, name: str) -> None:
    np.testing.assert_allclose(bench.logits(name, 8), LOGITS, rtol=1e-5, atol=1e-6)


def test_an_engine_that_is_right_at_one_batch_only_is_out() -> None:
    graph = small_models.linear().onnx.proto
    known = fidelity.probe(graph, graph, DATA, loader.profile("cpu"))
    subjects = [
        replace(float_subject("right", small_models.linear(), threads=1), probe=known),
        replace(broken("wrong at 8", "wrong_at_eight"), probe=known),
    ]
    with Bench(subjects[1:], DATA, (1,)) as bench:  # a batch at which it is right
        assert bench.running == ("wrong at 8",)
    with Bench(subjects, DATA, BATCHES) as bench:
        assert bench.running == ("right",)
        error = bench.failures["wrong at 8"]
    assert (error.id, error.where) == ("engine-differs", "batch 8")
    assert "dB" in error.seen


def test_every_subject_that_came_through_is_timed_in_every_case(comparison: Comparison) -> None:
    assert list(comparison.series) == [Case(mode, batch) for mode in MODES for batch in BATCHES]
    for them in comparison.series.values():
        assert set(them) == {"torch eager", "reference", "ort"}
        assert {len(one.rounds) for one in them.values()} == {ROUNDS}
        assert all((one.all > 0).all() and one.first > 0 for one in them.values())


def test_a_crash_while_it_is_timed_leaves_the_others_alone(
    bench: Bench, comparison: Comparison
) -> None:
    assert isinstance(bench.failures["dies when timed"], BuilderError)
    assert "SIGSEGV" in str(bench.failures["dies when timed"])


def test_a_run_that_computes_nothing_is_not_timed(bench: Bench, comparison: Comparison) -> None:
    assert bench.failures["forgetful"].id == "timed-run-differs"


def test_long_inferences_are_timed_once_a_round_and_no_longer_than_was_asked_for() -> None:
    with Bench([broken("slow", "slow")], DATA, (1,)) as bench:
        series = bench.time(1.5, modes=("forward",)).series[Case("forward", 1)]["slow"]
    assert [len(times) for times in series.rounds] == [1] * len(series.rounds)
    assert ROUNDS <= len(series.rounds) <= 1.5 / 0.06  # slices would have filled 50 rounds


def test_rows_say_what_was_measured_and_against_what(comparison: Comparison) -> None:
    rows = comparison.rows("torch eager", "this machine")
    assert len(rows) == 3 * len(MODES) * len(BATCHES)
    for row in rows:
        timings = comparison.series[Case(row.mode, row.batch)][row.subject].all
        assert isinstance(row.evidence, Measured)
        assert row.evidence.value == row.percentiles["p50"] == np.median(timings)
        assert (row.evidence.unit, row.evidence.where) == ("ms", "this machine")
        assert row.evidence.low <= row.evidence.value <= row.evidence.high
        assert row.evidence.samples == len(timings) >= len(row.samples_ms)
        assert row.fps == pytest.approx(1000 * row.batch / row.evidence.value)
        assert set(row.statistics) == {"first", "mean", "std", "min", "max", "outliers"}
        if row.subject == "torch eager":
            assert row.speedup == 1


def test_speedups_are_left_out_where_the_baseline_is_not_there(comparison: Comparison) -> None:
    assert {row.speedup for row in comparison.rows("no engine", "here")} == {None}


def test_the_baseline_is_exactly_as_fast_as_itself(comparison: Comparison) -> None:
    same = comparison.speedup("ort", "ort", Case("forward", 1))
    assert same == Interval(1, 1, 1)


def made(**milliseconds: list[float]) -> Comparison:
    series = {n: Series(9.0, [np.array(times)] * ROUNDS) for n, times in milliseconds.items()}
    return Comparison({Case("forward", 2): series})


def test_a_speedup_is_the_baselines_time_over_the_subjects() -> None:
    told = made(slow=[4.0, 4.0, 4.0], fast=[1.0, 1.0, 1.0])
    slow, fast = told.rows("slow", "here")
    assert (slow.speedup, fast.speedup) == (1, 4)
    assert fast.fps == 2000
    assert told.speedup("fast", "slow", Case("forward", 2)).value == 4


def test_a_row_holds_the_interval_of_its_speedup() -> None:
    slow, fast = [4.0, 4.2], [1.0, 1.2]
    series = {"slow": Series(9.0, [np.array([t]) for t in slow * 8]),
              "fast": Series(9.0, [np.array([t]) for t in fast * 8])}  # fmt: skip
    told = Comparison({Case("forward", 1): series})
    base, row = told.rows("slow", "here")
    assert base.speedup_interval == (1, 1)
    low, high = row.speedup_interval or (0, 0)
    assert pytest.approx(low) == 4.2 / 1.2
    assert low < row.speedup < high == pytest.approx(4)
    assert told.rows("nobody", "here")[0].speedup_interval is None


def test_modes_and_batches_take_turns_like_the_subjects() -> None:
    turns: list[tuple[str, Case]] = []

    class Watched(Bench):
        def _slice(self, name: str, case: Case, them: dict[str, Series], slice_s: float) -> None:
            turns.append((name, case))
            super()._slice(name, case, them, slice_s)

    subjects = [float_subject(name, small_models.linear(), threads=1) for name in ("a", "b")]
    with Watched(subjects, DATA, BATCHES) as bench:
        bench.time(0.2)
    each = len(subjects) * len(MODES) * len(BATCHES)
    rounds = [turns[i : i + each] for i in range(0, len(turns), each)]
    assert len(rounds) == ROUNDS + 1
    assert {len(set(them)) for them in rounds} == {each}  # everybody once, everywhere
    assert len({tuple(them) for them in rounds}) == len(rounds)  # in an order of its own


def test_few_and_unsteady_timings_are_noted() -> None:
    few, wide = made(a=[1.0, 3.0], b=[2.0] * 100).notes()
    assert few.startswith("Fewer than 100 timings in 1 of 2 series; the fewest are 30 (a, forward,")
    assert "in 1 of 2 series" in wide
    assert "above 2.5 %, at most 51 % (a, forward, batch 2)" in wide
    assert made(a=[1.0] * 100).notes() == ()


def test_preprocessed_samples_reach_a_worker_as_they_are() -> None:
    x = DATA.inputs()[:, ::2]  # not contiguous
    head, content = worker.packed(x)
    np.testing.assert_array_equal(worker.unpacked(content, head), x)


@pytest.mark.parametrize(("size", "count"), [(1, 5), (2, 2), (5, 1), (8, 1)])
def test_timed_batches_are_whole_and_repeat_samples_only_where_there_are_too_few(
    size: int, count: int
) -> None:
    them = worker.batches(np.arange(5), size)
    assert [len(batch) for batch in them] == [size] * count
    assert set(np.concatenate(them)) <= set(range(5))


def test_warm_up_is_not_counted() -> None:
    calls = []
    times = worker.timed(lambda: calls.append(0), warmup=3, iterations=5)
    assert (len(calls), len(times), times.dtype) == (8, 5, np.int64)
