from __future__ import annotations

import json

import pytest

from rtc.compiler.core.words import Word


class Colour(Word):
    RED = "red"
    DARK_BLUE = "dark blue"


def test_a_word_is_its_text_everywhere() -> None:
    assert f"{Colour.RED}" == str(Colour.RED) == "red"
    assert json.dumps({"colour": Colour.DARK_BLUE}) == '{"colour": "dark blue"}'
    assert Colour.DARK_BLUE == "dark blue"
    assert sorted([Colour.RED, Colour.DARK_BLUE]) == ["dark blue", "red"]


def test_another_word_is_none() -> None:
    assert Colour("red") is Colour.RED
    with pytest.raises(ValueError, match="green"):
        Colour("green")
