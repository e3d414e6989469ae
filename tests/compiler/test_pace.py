from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from digits_net import digits, digits_net

from rtc.compiler import pace
from rtc.compiler.building import Builder, Missing
from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.target import Backend, BuildRequest
from rtc.compiler.front import make_front
from rtc.compiler.pace import Pace, Timing, chosen, counts, paces
from rtc.compiler.recipe import load_recipe
from rtc.compiler.samples import splits_of
from rtc.compiler.stages import Stages
from rtc.compiler.store import Store
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


def builder(folder: Path, more: str = "", recipe: str = RECIPE) -> tuple[Builder, Ear]:
    (folder / "digits.onnx").write_bytes(digits_net(digits().train))
    (folder / "recipe.yaml").write_text(recipe + more)
    loaded, ear = load_recipe(folder / "recipe.yaml"), Ear()
    stages, data = Stages(Store(folder / "store"), ear), splits_of(loaded)
    front = make_front(loaded, data, stages)
    return Builder.of(loaded, data, front, loader.profile("cpu"), stages), ear


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


def pace_of(it: Builder, backend: Backend) -> Pace:
    return paces(it, [backend])[backend.name]


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "physical_cores", lambda: 2)


@pytest.mark.usefixtures("two_cores")
def test_candidates_get_what_was_found_for_them(tmp_path: Path) -> None:
    it, ear = builder(tmp_path)
    runtime = loader.backend("onnxruntime")
    found = pace_of(it, runtime)
    assert set(found.threads) == set(Variant)
    told = ear.told["threads"]
    words = r"onnxruntime: fp32 [12] \(1: .*, 2: .*\), int8 [12] \(1: .*, 2: .*\)"
    assert re.search(words, told)
    assert "openvino" not in told
    made = {each.variant: each for each in it.candidates(runtime, {FLOAT: 2, INT8: 1})}
    assert (made[FLOAT].request.threads, made[INT8].request.threads) == (2, 1)


@pytest.mark.usefixtures("two_cores")
def test_a_batch_that_takes_long_gets_all_cores_untried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LONG_MS", 0.0)
    it, ear = builder(tmp_path)
    assert set(pace_of(it, loader.backend("onnxruntime")).threads.values()) == {2}
    assert "1:" not in ear.told["threads"]


@pytest.mark.usefixtures("two_cores")
def test_where_trying_fails_the_runtime_chooses_and_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BuilderError("no process could be started")

    monkeypatch.setattr(pace, "Bench", broken)
    it, ear = builder(tmp_path)
    assert pace_of(it, loader.backend("onnxruntime")) == Pace()
    assert "measure.threads" in ear.warnings[0]


def test_one_core_leaves_nothing_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "physical_cores", lambda: 1)
    it, ear = builder(tmp_path)
    assert pace_of(it, loader.backend("onnxruntime")) == Pace()
    assert "threads" not in ear.told


def test_a_recipe_that_says_how_many_is_not_asked_again(tmp_path: Path) -> None:
    it, ear = builder(tmp_path, "measure: {threads: 1}\n")
    assert pace_of(it, loader.backend("onnxruntime")) == Pace()
    assert "threads" not in ear.told


def test_a_device_that_is_not_here_has_no_threads_to_try(tmp_path: Path) -> None:
    it, _ = builder(tmp_path)
    elsewhere = replace(it, request=BuildRequest(loader.profile("rtx4060ti"), (1, 1, 1)))
    assert pace_of(elsewhere, loader.backend("tensorrt_rtx")) == Pace()


def timings(**speeds: tuple[float, float]) -> tuple[Timing, ...]:
    return tuple(
        Timing(backend, variant, 1, 1 / speed, speed)
        for backend, of in speeds.items()
        for variant, speed in zip((FLOAT, INT8), of, strict=True)
    )


@pytest.mark.usefixtures("two_cores")
def test_a_runtime_far_behind_another_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = timings(openvino=(1.0, 1.9), onnxruntime=(1.3, 1.2))
    monkeypatch.setattr(pace, "_timings", lambda *_: found)
    it, _ = builder(tmp_path)
    known = paces(it, [loader.backend("openvino"), loader.backend("onnxruntime")])
    assert not known["openvino"].behind
    words = "no search: onnxruntime fp32 takes 1.46 times what openvino int8 takes"
    assert known["onnxruntime"].behind == words


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    "speeds",
    [{"openvino": (1.0, 1.9), "onnxruntime": (1.0, 1.6)}, {"openvino": (1.0, 1.0)}],
    ids=["close", "alone"],
)
def test_a_runtime_that_is_close_to_the_fastest_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speeds: dict[str, tuple[float, float]]
) -> None:
    monkeypatch.setattr(pace, "_timings", lambda *_: timings(**speeds))
    it, _ = builder(tmp_path)
    known = paces(it, [loader.backend(name) for name in speeds])
    assert not any(each.behind for each in known.values())


@pytest.mark.usefixtures("two_cores")
def test_runtimes_are_timed_against_each_other(tmp_path: Path) -> None:
    it, ear = builder(tmp_path)
    known = paces(it, [loader.backend("openvino"), loader.backend("onnxruntime")])
    assert all(set(each.threads) == set(Variant) for each in known.values())
    assert re.search(r"openvino: fp32 .*int8 .*; onnxruntime: fp32 .*int8 ", ear.told["threads"])


@pytest.mark.parametrize(
    ("search", "state"),
    [("{}", "left out"), ("null", "built"), ("{objective: accuracy}", "built")],
)
def test_a_mix_is_left_out_where_a_search_cannot_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: str, state: str
) -> None:
    monkeypatch.setattr(Builder, "candidate", lambda *_: "built")
    options = f"precision: {{offer: [fp32, mix], observer: minmax, search: {search}}}\n"
    recipe = RECIPE.partition("precision:")[0] + options
    it, _ = builder(tmp_path, "gates: {latency_ms: 1.0}\n", recipe)
    *_, mix = it.candidates(loader.backend("onnxruntime"), unsearched="far behind")
    assert (mix.state if isinstance(mix, Missing) else mix) == state
