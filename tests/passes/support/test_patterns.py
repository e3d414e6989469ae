from __future__ import annotations

from functools import partial

import pytest

from rtc.compiler.core.errors import RecipeError
from rtc.passes.support.patterns import by_name, matching

NAMES = ["conv1", "conv2", "block.conv1", "Fc", "a[0]"]
MATCHES = partial(matching, names=NAMES, where="precision.pin")


def test_a_glob_matches_whole_names_as_they_are_spelled() -> None:
    assert matching("conv*", NAMES, "here") == ["conv1", "conv2"]
    assert matching("*conv1", NAMES, "here") == ["conv1", "block.conv1"]
    assert matching("*", NAMES, "here") == NAMES
    with pytest.raises(RecipeError) as error:
        matching("fc", NAMES, "here")
    assert error.value.id == "unmatched-pin"
    assert error.value.seen == "'fc'"


def test_a_name_beats_every_glob() -> None:
    asked = {"*": "half", "conv?": "half", "conv1": "int8"}
    wanted = {**dict.fromkeys(NAMES, "half"), "conv1": "int8"}
    assert by_name(asked, NAMES, MATCHES, "here") == wanted


def test_a_name_with_brackets_is_a_name() -> None:
    assert by_name({"a[0]": 1}, NAMES, MATCHES, "here") == {"a[0]": 1}


def test_globs_that_contradict_each_other_are_told_with_what_to_do() -> None:
    with pytest.raises(RecipeError) as error:
        by_name({"conv*": "half", "*1": "int8"}, NAMES, MATCHES, "precision.pin")
    assert error.value.id == "contradictory-pins"
    assert "on conv1" in error.value.what
    assert error.value.seen == "conv*: half, *1: int8"
    agreed = by_name({"conv*": "half", "*1": "half"}, NAMES, MATCHES, "precision.pin")
    assert set(agreed) == {"conv1", "conv2", "block.conv1"}
