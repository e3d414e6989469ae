from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from digits_net import digits, digits_net

from rtc.compiler import threads
from rtc.compiler.building import Builder
from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.front import make_front
from rtc.compiler.recipe import load_recipe
from rtc.compiler.samples import splits_of
from rtc.compiler.stages import Stages
from rtc.compiler.store import Store
from rtc.compiler.threads import Timing, chosen, counts, threads_of
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


def builder(folder: Path, more: str = "") -> tuple[Builder, Ear]:
    (folder / "digits.onnx").write_bytes(digits_net(digits().train))
    (folder / "recipe.yaml").write_text(RECIPE + more)
    recipe, ear = load_recipe(folder / "recipe.yaml"), Ear()
    stages, data = Stages(Store(folder / "store"), ear), splits_of(recipe)
    front = make_front(recipe, data, stages)
    return Builder.of(recipe, data, front, loader.profile("cpu"), stages), ear


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
    assert chosen([Timing(*key, 1.0, speed) for key, speed in speeds.items()]) == expected


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: 2)


@pytest.mark.usefixtures("two_cores")
def test_candidates_get_what_was_found_for_them(tmp_path: Path) -> None:
    it, ear = builder(tmp_path)
    runtime = loader.backend("onnxruntime")
    found = threads_of(it, runtime)
    assert set(found) == set(Variant)
    told = ear.told["threads onnxruntime"]
    assert re.search(r"fp32 [12] \(1: .*, 2: .*\), int8 [12] \(1: .*, 2: .*\) of 2", told)
    made = {each.variant: each for each in it.candidates(runtime, {FLOAT: 2, INT8: 1})}
    assert (made[FLOAT].request.threads, made[INT8].request.threads) == (2, 1)


@pytest.mark.usefixtures("two_cores")
def test_a_batch_that_takes_long_gets_all_cores_untried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "LONG_MS", 0.0)
    it, ear = builder(tmp_path)
    assert set(threads_of(it, loader.backend("onnxruntime")).values()) == {2}
    assert "1:" not in ear.told["threads onnxruntime"]


@pytest.mark.usefixtures("two_cores")
def test_where_trying_fails_the_runtime_chooses_and_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BuilderError("no process could be started")

    monkeypatch.setattr(threads, "Bench", broken)
    it, ear = builder(tmp_path)
    assert threads_of(it, loader.backend("onnxruntime")) == {}
    assert "measure.threads" in ear.warnings[0]


def test_one_core_leaves_nothing_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: 1)
    it, ear = builder(tmp_path)
    assert threads_of(it, loader.backend("onnxruntime")) == {}
    assert "threads onnxruntime" not in ear.told


def test_a_recipe_that_says_how_many_is_not_asked_again(tmp_path: Path) -> None:
    it, ear = builder(tmp_path, "measure: {threads: 1}\n")
    assert threads_of(it, loader.backend("onnxruntime")) == {}
    assert "threads onnxruntime" not in ear.told


def test_a_device_that_is_not_here_has_no_threads_to_try(tmp_path: Path) -> None:
    it, _ = builder(tmp_path)
    elsewhere = replace(it, request=BuildRequest(loader.profile("rtx4060ti"), (1, 1, 1)))
    assert threads_of(elsewhere, loader.backend("tensorrt_rtx")) == {}
