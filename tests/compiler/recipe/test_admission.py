from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from rtc.compiler.recipe import admission
from rtc.compiler.recipe.admission import admit_modules_in

NAME = "admitted_of_mine"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(admission, "_admitted", set())
    yield
    sys.modules.pop(NAME, None)


def recipe(folder: Path, value: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{NAME}.py").write_text(f"VALUE = {value}")
    importlib.invalidate_caches()
    return folder


def value() -> int:
    number: int = importlib.import_module(NAME).VALUE
    return number


def test_each_recipe_has_its_own_module_of_a_name(tmp_path: Path) -> None:
    one, two = recipe(tmp_path / "one", 1), recipe(tmp_path / "two", 2)
    admit_modules_in(one)
    assert value() == 1
    admit_modules_in(two)
    assert value() == 2
    assert str(one) not in sys.path
    admit_modules_in(one)
    assert value() == 1
    assert sys.path.count(str(one.resolve())) == 1


def test_a_folder_that_was_on_the_path_before_stays_there(tmp_path: Path) -> None:
    one, two = recipe(tmp_path / "one", 1), recipe(tmp_path / "two", 2)
    sys.path.append(str(one.resolve()))
    admit_modules_in(one)
    admit_modules_in(two)
    assert str(one.resolve()) in sys.path
