from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.words import Word
from rtc.compiler.documents import strict_yaml
from rtc.compiler.documents.validation import validated


class Colour(Word):
    RED = "red"
    GREEN = "green"


class Wheel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: Annotated[int, Field(ge=1)]
    """How large it is, in inches."""


class Car(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    name: Annotated[str, Field(pattern=r"^[a-z]+$")]
    """Its name, in small letters."""
    colour: Colour = Colour.RED
    wheels: tuple[Wheel, ...] = ()
    open: bool = False


CAR = TypeAdapter(Car)


def read(text: str) -> Car:
    document = strict_yaml.parse(text.encode(), "car.yaml", what="car", limit=1000)
    return validated(CAR, document.value, document, ())


def test_lists_are_tuples_and_words_are_enums() -> None:
    made = read("name: beetle\ncolour: green\nwheels: [{size: 15}, {size: 16}]")
    assert made.colour is Colour.GREEN
    assert made.wheels == (Wheel(size=15), Wheel(size=16))


FAULTS = {
    "name: beetle\ncolor: red": ("car.yaml:2:1", "unknown key 'color'", 'did you mean "colour"?'),
    "colour: red": ("car.yaml:1:1", "missing key 'name'", "add name: Its name, in small letters."),
    "name: beetle\ncolour: gren": ("car.yaml:2:9", "colour: wrong value", 'did you mean "green"?'),
    "name: Beetle": ("car.yaml:1:7", "seen 'Beetle'", "Its name, in small letters."),
    "name: 7": ("car.yaml:1:7", "seen 7", "put it in quotes"),
    "name: beetle\nopen: 1": ("car.yaml:2:7", "expected true or false", ""),
    "name: beetle\nwheels: [{size: 15}, {size: 0}]": (
        "car.yaml:2:29",
        "wheels.1.size: wrong value",
        "greater than or equal to 1",
    ),
    "name: beetle\nwheels: [{sise: 15}]": (
        "car.yaml:2:11",
        "unknown key 'sise' in wheels.0",
        'did you mean "size"?',
    ),
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_says_where_and_what_to_do(text: str) -> None:
    where, what, fix = FAULTS[text]
    with pytest.raises(RecipeError) as error:
        read(text)
    assert error.value.where == where
    assert what in str(error.value)
    assert fix in str(error.value)


def test_a_key_that_is_misspelt_is_not_missing_as_well() -> None:
    with pytest.raises(RecipeError) as error:
        read("nmae: beetle")
    assert str(error.value) == "car.yaml:1:1: unknown key 'nmae'; did you mean \"name\"?"


def test_the_first_in_reading_order_tells_of_the_others() -> None:
    with pytest.raises(RecipeError) as error:
        read("wheels: [{size: 0}]\nname: 7\nopenn: true\ncolour: blue\nx: 1\ny: 2")
    assert error.value.where == "car.yaml:1:17"
    assert "and 5 more: car.yaml:2:7" in error.value.fix
    assert error.value.fix.endswith("· …")
