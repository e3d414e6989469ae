from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from rtc.compiler.core.doors import Door
from rtc.compiler.core.errors import RecipeError

GROUP = "rtc.tests.animals"


class Animal(ABC):
    @abstractmethod
    def says(self) -> str: ...


class Cat(Animal):
    def says(self) -> str:
        return "miaow"


class Shy(Animal):
    pass


HERE = f"{__name__}"
DOOR = Door(GROUP, Animal, "animal", {"cat": f"{HERE}:Cat", "shy": f"{HERE}:Shy"})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that registers a dog, and a cat of its own."""
    info = tmp_path / "animals-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: animals\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ndog = animals_of_others:Dog\n")
    (tmp_path / "animals_of_others.py").write_text(
        f"from {HERE} import Animal\nclass Dog(Animal):\n    def says(self): return 'woof'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("package")
def test_own_names_and_those_of_packages_and_module_and_class() -> None:
    assert set(DOOR.known()) == {"cat", "shy", "dog"}
    assert DOOR.find("cat")().says() == "miaow"
    assert DOOR.find("dog")().says() == "woof"
    assert DOOR.find(f"{HERE}:Cat") is DOOR.find("cat")


@pytest.mark.usefixtures("package")
def test_one_name_for_two_classes_is_refused() -> None:
    mine = Door(GROUP, Animal, "animal", {"dog": f"{HERE}:Cat"})
    with pytest.raises(RecipeError) as error:
        mine.known()
    assert error.value.id == "name-taken"
    assert "animals_of_others:Dog" in error.value.seen


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("cats", "unknown-animal", 'did you mean "cat"?'),
        (f"{HERE}:GROUP", "not-an-animal", "is not an animal"),
        (f"{HERE}:Door", "not-an-animal", "the class Door"),
        ("shy", "not-an-animal", "no says"),
    ],
)
def test_what_is_no_such_class_is_told(name: str, code: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        DOOR.find(name)
    assert error.value.id == code
    assert said in str(error.value)
