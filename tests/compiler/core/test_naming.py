from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rtc.compiler.core.errors import DataError, RecipeError
from rtc.compiler.core.naming import call_object, load_object, nearest

MODULE = """
from rtc.compiler.core.errors import DataError
NUMBER = 3
def make(size, depth=2): return size * depth
def fails(): raise ValueError("bad\\nsecond line")
def refuses(): raise DataError("no samples")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "naming_of_mine.py").write_text(MODULE)
    (tmp_path / "naming_broken.py").write_text("import naming_of_mine\n1 / 0")
    (tmp_path / "naming_lacking.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("naming_")]:
        monkeypatch.delitem(sys.modules, name)


def test_the_nearest_word_or_all_of_them() -> None:
    assert nearest("convv1", ["conv1", "fc"]) == 'did you mean "conv1"?'
    assert nearest("zzz", ["b", "a"]) == "there is: a, b"
    assert nearest("x", []) == "there is: nothing"


def test_an_object_by_its_name() -> None:
    assert load_object("naming_of_mine:NUMBER", where="here") == 3
    assert call_object("naming_of_mine:make", {"size": 4}, where="here") == 8


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("naming_of_mine", "not a reference to an object"),
        (":make", "not a reference to an object"),
        ("naming_of_mime:make", 'did you mean "naming_of_mine"?'),
        ("naming_of_mine:maker", 'did you mean "make"?'),
        ("naming_broken:x", "ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(reference: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_object(reference, where="recipe.yaml")
    assert said in str(error.value)
    assert "recipe.yaml" in str(error.value)


def test_what_a_module_itself_lacks_is_not_the_recipes_fault() -> None:
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        load_object("naming_lacking:x", where="recipe.yaml")


@pytest.mark.parametrize(
    ("reference", "options", "said"),
    [
        ("naming_of_mine:make", {"sise": 4}, 'did you mean "size"?'),
        ("naming_of_mine:make", {}, "missing a required argument: 'size'"),
        ("naming_of_mine:NUMBER", {}, "not a function"),
        ("naming_of_mine:fails", {}, "ValueError: bad"),
    ],
)
def test_a_call_that_cannot_be_is_told(reference: str, options: dict[str, int], said: str) -> None:
    with pytest.raises(RecipeError) as error:
        call_object(reference, options, where="data.dataset")
    assert said in str(error.value)
    assert "second line" not in str(error.value)


def test_an_error_of_rtc_goes_through_and_says_where() -> None:
    with pytest.raises(DataError) as error:
        call_object("naming_of_mine:refuses", {}, where="data.dataset")
    assert error.value.where == "naming_of_mine:refuses"
