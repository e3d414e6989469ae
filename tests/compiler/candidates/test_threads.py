from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from digits_net import digits, digits_net

from rtc.compiler.candidates import threads
from rtc.compiler.candidates.offer import Missing, candidates
from rtc.compiler.candidates.threads import Pace, Timing, chosen, counts, paces
from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.target import Backend, BuildRequest
from rtc.compiler.execution.stages import Stages
from rtc.compiler.frontend.float_model import make_front
from rtc.compiler.frontend.samples import splits_of
from rtc.compiler.lowering.job import Job
from rtc.compiler.measure.comparison import Case, Comparison, Series, Subject
from rtc.compiler.measure.latency import Bench
from rtc.compiler.recipe.schema import load_recipe
from rtc.compiler.storage.store import Store
from rtc.targets import loader

RECIPE = """
recipe: 1
name: digits
version: 1.0.0
source: {onnx: digits.onnx}
data:
  dataset: rtc.recipes.datasets.mnist:mnist5k
  split: {train: 0.0, calibration: 0.02, test: 0.02}
precision: {offer: [fp32, int8], observer: minmax}
"""


class Ear(Nobody):
    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self.warnings: list[str] = []

    def warned(self, text: str) -> None:
        self.warnings.append(text)

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        self.told[stage] = found


def job(folder: Path, more: str = "", recipe: str = RECIPE) -> tuple[Job, Ear]:
    (folder / "digits.onnx").write_bytes(digits_net(digits().train))
    (folder / "recipe.yaml").write_text(recipe + more)
    loaded, ear = load_recipe(folder / "recipe.yaml"), Ear()
    stages, data = Stages(Store(folder / "store"), ear), splits_of(loaded)
    front = make_front(loaded, data, stages)
    return Job.of(loaded, data, front, loader.profile("cpu"), stages), ear


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, (1,)), (2, (1, 2)), (6, (1, 3, 6)), (8, (1, 2, 4, 8)), (64, (1, 16, 32, 64))],
)
def test_few_numbers_of_threads_are_tried(cores: int, expected: tuple[int, ...]) -> None:
    assert counts(cores) == expected


FLOAT, INT8 = Variant.FP32, Variant.INT8


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ({(FLOAT, 1): 1.0, (FLOAT, 2): 1.6}, {FLOAT: 2}),
        ({(FLOAT, 1): 1.0, (FLOAT, 2): 1.02}, {FLOAT: 1}),  # no more threads for nothing
        ({(FLOAT, 1): 1.0, (FLOAT, 2): 1.6, (INT8, 1): 1.0, (INT8, 2): 0.9}, {FLOAT: 2, INT8: 1}),
    ],
)
def test_each_variant_has_the_threads_that_it_is_fastest_with(
    speeds: dict[tuple[Variant, int], float], expected: dict[Variant, int]
) -> None:
    found = chosen([Timing("openvino", *key, 1.0, speed) for key, speed in speeds.items()])
    assert {variant: found[variant] for variant in expected} == expected


def pace_of(it: Job, backend: Backend) -> Pace:
    return paces(it, [backend])[backend.name]


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: 2)


@pytest.mark.usefixtures("two_cores")
def test_candidates_get_what_was_found_for_them(tmp_path: Path) -> None:
    it, ear = job(tmp_path)
    runtime = loader.backend("onnxruntime")
    found = pace_of(it, runtime)
    assert set(found.threads) == set(Variant)
    told = ear.told["threads"]
    words = r"onnxruntime: fp32 [12] \(1: .*, 2: .*\), int8 [12] \(1: .*, 2: .*\)"
    assert re.search(words, told)
    assert "openvino" not in told
    made = {each.variant: each for each in candidates(it, runtime, {FLOAT: 2, INT8: 1})}
    assert (made[FLOAT].request.threads, made[INT8].request.threads) == (2, 1)


@pytest.mark.usefixtures("two_cores")
def test_a_batch_that_takes_long_gets_all_cores_untried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "LONG_MS", 0.0)
    it, ear = job(tmp_path)
    assert set(pace_of(it, loader.backend("onnxruntime")).threads.values()) == {2}
    assert "1:" not in ear.told["threads"]


@pytest.mark.usefixtures("two_cores")
def test_where_trying_fails_the_runtime_chooses_and_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BuilderError("no process could be started")

    monkeypatch.setattr(threads, "Bench", broken)
    it, ear = job(tmp_path)
    assert pace_of(it, loader.backend("onnxruntime")) == Pace()
    assert "measure.threads" in ear.warnings[0]


def test_one_core_leaves_nothing_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: 1)
    it, ear = job(tmp_path)
    assert pace_of(it, loader.backend("onnxruntime")) == Pace()
    assert "threads" not in ear.told


def test_a_recipe_that_says_how_many_is_not_asked_again(tmp_path: Path) -> None:
    it, ear = job(tmp_path, "measure: {threads: 1}\n")
    assert pace_of(it, loader.backend("onnxruntime")) == Pace()
    assert "threads" not in ear.told


@pytest.mark.usefixtures("two_cores")
def test_runtimes_are_compared_with_the_threads_that_a_recipe_says(tmp_path: Path) -> None:
    it, ear = job(tmp_path, "measure: {threads: 1}\n")
    told = paces(it, [loader.backend("openvino"), loader.backend("onnxruntime")])
    assert not any(each.threads for each in told.values())
    assert "2:" not in ear.told["threads"]


def test_a_device_that_is_not_here_has_no_threads_to_try(tmp_path: Path) -> None:
    it, _ = job(tmp_path)
    elsewhere = replace(it, request=BuildRequest(loader.profile("rtx4060ti"), (1, 1, 1)))
    assert pace_of(elsewhere, loader.backend("tensorrt_rtx")) == Pace()


class KnownBench(Bench):
    """Engines of known speed, by name: "ort int8, 2 threads". One with none fails."""

    ms: ClassVar[dict[str, float]] = {}

    def start(self, subject: Subject) -> None:
        self._workers[subject.name] = None

    def typical_ms(self, name: str, case: Case) -> float:
        if name not in self.ms:
            self.failures[name] = BuilderError("it does not load", where=name)
            del self._workers[name]
            raise self.failures[name]
        return self.ms[name]

    def time(self, *_: object, **__: object) -> Comparison:
        series = {name: Series(9.0, [np.array([self.ms[name]])] * 15) for name in self.running}
        return Comparison({Case("forward", 1): series})

    def close(self) -> None:
        pass


def known(monkeypatch: pytest.MonkeyPatch, ms: dict[str, float]) -> tuple[list[Timing], list[str]]:
    """Timings of two runtimes with one thread and two."""
    monkeypatch.setattr(threads, "Bench", KnownBench)
    monkeypatch.setattr(KnownBench, "ms", ms)
    subjects = {
        (name, variant, count): Subject(f"{name} {variant}, {count} threads", "", {}, {})
        for count in (2, 1)
        for name in ("ov", "ort")
        for variant in (FLOAT, INT8)
    }
    found, failed = threads.timed(subjects, digits().train, Case("forward", 1), seed=0)
    return list(found), list(failed)


BOTH = {
    "ov fp32, 2 threads": 1.0, "ov fp32, 1 threads": 2.0,
    "ov int8, 2 threads": 0.5, "ov int8, 1 threads": 0.4,
    "ort fp32, 2 threads": 4.0,
    "ort int8, 2 threads": 2.0, "ort int8, 1 threads": 3.0,
}  # fmt: skip


def test_speeds_of_all_runtimes_are_against_the_same_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, failed = known(monkeypatch, BOTH)
    assert not failed
    assert len(found) == 7  # 4 ms with both cores is too long to try with one
    assert all(timing.speed == pytest.approx(1.0 / timing.ms) for timing in found)
    best = chosen([timing for timing in found if timing.backend == "ov"])
    assert (best[FLOAT], best[INT8]) == (2, 1)


def test_a_runtime_that_fails_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {"ov fp32, 1 threads": 2.0, **BOTH}
    del without["ort int8, 2 threads"]
    found, failed = known(monkeypatch, without)
    assert {timing.backend for timing in found} == {"ov"}
    assert failed == ["ort"]
    with pytest.raises(BuilderError, match="does not load"):
        known(monkeypatch, {})


def test_slow_engines_are_told_apart_by_a_few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {name: 100 * ms for name, ms in BOTH.items() if "2 threads" in name}
    found, _ = known(monkeypatch, slow)
    assert [timing.threads for timing in found] == [2] * 4
    assert [timing.speed for timing in found] == [1.0, 2.0, 0.25, 0.5]


def timings(**speeds: tuple[float, float]) -> tuple[Timing, ...]:
    return tuple(
        Timing(backend, variant, 1, 1 / speed, speed)
        for backend, of in speeds.items()
        for variant, speed in zip((FLOAT, INT8), of, strict=True)
        if not math.isnan(speed)
    )


@pytest.mark.usefixtures("two_cores")
def test_a_runtime_far_behind_another_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = timings(openvino=(1.0, 1.9), onnxruntime=(0.9, 1.3))
    monkeypatch.setattr(threads, "_timings", lambda *_: found)
    it, _ = job(tmp_path)
    told = paces(it, [loader.backend("openvino"), loader.backend("onnxruntime")])
    assert not told["openvino"].behind
    words = "no search: onnxruntime int8 takes 1.46 times what openvino int8 takes"
    assert told["onnxruntime"].behind == words


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    "speeds",
    [
        {"openvino": (1.0, 1.9), "onnxruntime": (0.9, 1.6)},
        {"openvino": (1.0, 1.9), "onnxruntime": (1.1, 1.3)},
        {"openvino": (1.0, 1.9), "onnxruntime": (0.9, math.nan)},
        {"openvino": (1.0, math.nan), "onnxruntime": (0.5, 0.6)},
        {"openvino": (1.0, 1.0)},
    ],
    ids=["close", "ahead in float", "no INT8 engine", "nothing to compare with", "alone"],
)
def test_a_runtime_that_may_have_the_fastest_mix_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speeds: dict[str, tuple[float, float]]
) -> None:
    monkeypatch.setattr(threads, "_timings", lambda *_: timings(**speeds))
    it, _ = job(tmp_path)
    told = paces(it, [loader.backend(name) for name in speeds])
    assert not any(each.behind for each in told.values())


@pytest.mark.usefixtures("two_cores")
def test_runtimes_are_timed_against_each_other(tmp_path: Path) -> None:
    it, ear = job(tmp_path)
    told = paces(it, [loader.backend("openvino"), loader.backend("onnxruntime")])
    assert all(set(each.threads) == set(Variant) for each in told.values())
    assert re.search(r"openvino: fp32 .*int8 .*; onnxruntime: fp32 .*int8 ", ear.told["threads"])


@pytest.mark.parametrize(
    ("search", "state"),
    [("{}", "left out"), ("null", "built")],
)
def test_a_mix_is_left_out_where_a_search_cannot_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: str, state: str
) -> None:
    monkeypatch.setattr("rtc.compiler.candidates.offer.candidate", lambda *_: "built")
    options = f"precision: {{offer: [fp32, mix], observer: minmax, search: {search}}}\n"
    recipe = RECIPE.partition("precision:")[0] + options
    it, _ = job(tmp_path, recipe=recipe)
    *_, mix = candidates(it, loader.backend("onnxruntime"), unsearched="far behind")
    assert (mix.state if isinstance(mix, Missing) else mix) == state
