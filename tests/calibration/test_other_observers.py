"""Observers of other packages: by entry point or by their class, compiled with, and refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from check_pass import parse

from rtc.calibration.observers import OBSERVERS, Choice, make_observer
from rtc.compiler import pipeline
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.progress import Nobody
from rtc.compiler.frontend.recipe_check import faults
from rtc.compiler.recipe.schema import load_recipe
from rtc.compiler.storage.store import Store

PACKAGE = Path(__file__).parents[1] / "helpers" / "example_package"
PROFILE = "name: board\nvendor: me\nkind: cpu\nbackends: [onnxruntime]\n"
RECIPE = """\
recipe: 1
name: small
version: 1.0.0
source: {{onnx: model.onnx}}
data: {{npz: samples.npz, classes: 3, split: {{train: 0, calibration: 0.3, test: 0.5}}}}
precision: {{offer: [fp32, int8], search: null, observer: "{observer}"}}
targets: [board.yaml]
measure: {{seconds: 0.1, threads: 1}}
gates: {{chance: null, top1_drop: null, parity: null}}
"""


@pytest.fixture
def package(monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE))
    yield
    for name in ("example_ranges", "example_runtime", "mine"):
        sys.modules.pop(name, None)


def written(folder: Path, observer: str) -> Path:
    random = np.random.default_rng(0)
    w = random.standard_normal((6, 3)).astype(np.float32)
    unit = parse("g (float[N,6] x) => (float[N,3] y) {\n[only] y = MatMul(x, w)\n}", w=w)
    (folder / "model.onnx").write_bytes(unit.onnx.proto)
    x = random.standard_normal((200, 6)).astype(np.float32)
    np.savez(folder / "samples.npz", x=x, y=(x @ w).argmax(axis=1))
    (folder / "board.yaml").write_text(PROFILE)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(observer=observer))
    return path


class Ear(Nobody):
    """Which stages were computed and which were taken from the store."""

    def __init__(self) -> None:
        self.cached: dict[str, bool] = {}

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        self.cached[stage] = cached


def compiled(path: Path) -> tuple[pipeline.CompileResult, dict[str, bool]]:
    ear, folder = Ear(), path.parent
    store = Store(folder / "store")
    (made,) = pipeline.compile(path, out=folder / "build", store=store, listener=ear)
    return made, ear.cached


@pytest.mark.parametrize("kind", ["middle", "example_ranges:Middle"])
def test_an_observer_of_another_package_takes_the_ranges(kind, package):
    seen = make_observer(kind)
    assert seen.update(np.array([[-2.0, 8.0]], np.float32))
    found = seen.result(kind)
    assert (found.low, found.high, found.kind) == (-1.0, 4.0, kind)


def test_a_range_of_nothing_is_widened_to_all_that_was_seen(package, monkeypatch):
    seen = make_observer("middle")
    monkeypatch.setattr(type(seen), "choose", lambda self: Choice((0.0, 0.0)))
    seen.update(np.array([[-2.0, 8.0]], np.float32))
    found = seen.result("middle")
    assert (found.low, found.high) == (-2.0, 8.0)


@pytest.mark.parametrize("kind", ["middle", "mine:Middle"])
def test_its_code_counts_where_the_ranges_are_taken(kind, package, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = (PACKAGE / "example_ranges.py").read_text()
    module = tmp_path / ("example_ranges.py" if kind == "middle" else "mine.py")
    module.write_text(text)
    if kind == "middle":
        monkeypatch.syspath_prepend(str(tmp_path))
    path = written(tmp_path, kind)
    first, _ = compiled(path)
    assert {row.variant for row in first.report.candidates} == {"fp32", "int8"}
    assert compiled(path)[0].reused
    module.write_text(text.replace("low / 2, high / 2", "low / 3, high / 3"))
    again, cached = compiled(path)
    assert not again.reused
    assert not cached["observe"]
    assert cached["axes"]


def test_rtcs_own_are_registered_as_others_are():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    section = text.partition('[project.entry-points."rtc.observers"]\n')[2].partition("\n[")[0]
    assert dict(re.findall(r'^([\w-]+) = "(.*)"$', section, re.MULTILINE)) == OBSERVERS.own


def test_the_nearest_registered_name_is_told(package, tmp_path):
    with pytest.raises(RecipeError, match='did you mean "middle"'):
        load_recipe(written(tmp_path, "midle"))


WRONG = """\
from rtc.calibration.observers import Choice, Observer

class Half(Observer):
    def take(self, values, low, high): ...

class Asking(Observer):
    def __init__(self, how): ...
    def take(self, values, low, high): ...
    def choose(self): ...
"""


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("nowhere:Middle", "no module named nowhere"),
        ("mine:Hulf", 'did you mean "Half"'),
        ("pathlib:Path", "is not an observer (seen the class Path"),
        ("mine:Half", "lacks methods (seen no choose"),
        ("mine:Asking", "cannot be made (seen "),
    ],
)
def test_what_is_no_observer_is_refused_before_any_work(kind, told, package, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine.py").write_text(WRONG)
    path = written(tmp_path, kind)
    with pytest.raises(RecipeError) as error:
        compiled(path)
    assert told in str(error.value)
    assert "precision.observer" in error.value.where
    assert any(told in str(fault) for fault in faults(load_recipe(path)))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("Choice((float('nan'), 1.0))", "chose no range (seen nan to 1.0"),
        ("Choice((2.0, 1.0))", "chose no range"),
        ("1 / 0", "this observer failed (seen ZeroDivisionError"),
        ("None", "this observer failed (seen TypeError"),
    ],
)
def test_an_observer_that_fails_is_told_of(body, told, package, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text(
        "from rtc.calibration.observers import Choice, Observer\n"
        "class Bad(Observer):\n"
        "    def take(self, values, low, high): ...\n"
        f"    def choose(self): return {body}\n"
    )
    seen = make_observer("mine:Bad")
    seen.update(np.ones((1, 2), np.float32))
    with pytest.raises(RecipeError) as error:
        seen.result("mine:Bad")
    assert told in str(error.value)
