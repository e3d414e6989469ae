from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from digits_net import digits, digits_net

from rtc.compiler import threads
from rtc.compiler.building import Builder
from rtc.compiler.core.progress import Nobody
from rtc.compiler.front import make_front
from rtc.compiler.recipe import load_recipe
from rtc.compiler.samples import splits_of
from rtc.compiler.stages import Stages
from rtc.compiler.store import Store
from rtc.compiler.threads import Timing, chosen, counts, tuned
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
    ("cores", "expected"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))]
)
def test_counts_double_up_to_all_cores(cores: int, expected: tuple[int, ...]) -> None:
    assert counts(cores) == expected


@pytest.mark.parametrize(
    ("us", "expected"),
    [
        ({("fp32", 1): 100, ("fp32", 2): 60}, 2),
        ({("fp32", 1): 100, ("fp32", 2): 98}, 1),  # no more threads for nothing
        ({("fp32", 1): 100, ("fp32", 2): 60, ("int8", 1): 50, ("int8", 2): 55}, 1),
        ({("fp32", 1): 100, ("fp32", 2): 60, ("int8", 1): 90, ("int8", 2): 80}, 2),
    ],
)
def test_the_fastest_variant_decides(us: dict[tuple[str, int], float], expected: int) -> None:
    first = next(iter(us.values()))
    assert chosen([Timing(*key, t, first / t) for key, t in us.items()]) == expected


def test_every_variant_is_timed_with_every_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: 2)
    it, ear = builder(tmp_path)
    found = tuned(it, loader.backend("onnxruntime"))
    assert found.request.threads in (1, 2)
    told = ear.told["threads onnxruntime"]
    assert "of 2 (" in told
    assert "1: " in told
    assert "2: " in told
    (candidate, *_) = found.candidates(loader.backend("onnxruntime"))
    assert candidate.request.threads == found.request.threads


def test_a_recipe_that_says_how_many_is_not_asked_again(tmp_path: Path) -> None:
    it, ear = builder(tmp_path, "measure: {threads: 1}\n")
    assert tuned(it, loader.backend("onnxruntime")) is it
    assert "threads onnxruntime" not in ear.told


def test_a_device_that_is_not_here_has_no_threads_to_try(tmp_path: Path) -> None:
    it, _ = builder(tmp_path)
    request: Any = it.request.__class__(loader.profile("rtx4060ti"), (1, 1, 1))
    elsewhere = it.__class__(it.recipe, it.model, it.context, request, it.stages)
    assert tuned(elsewhere, loader.backend("tensorrt_rtx")) is elsewhere
