from __future__ import annotations

import pytest

from rtc.compiler.core.hashing import canonical, digest
from rtc.compiler.execution.changes import differences, in_words, outline


def test_an_outline_keeps_what_is_short_and_digests_what_is_long() -> None:
    long = "x" * 100
    kept = outline({"batch": 8, "text": long, "options": {"bits": [4, 8]}})
    assert kept == {"batch": 8, "text": digest(canonical(long)), "options": {"bits": [4, 8]}}


def test_numbers_by_the_hundred_are_one_digest() -> None:
    assert outline({"plan": {"conv": "int8"}}) == {"plan": digest(canonical({"conv": "int8"}))}
    wide = {str(index): index for index in range(65)}
    assert outline(wide) == digest(canonical(wide))


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ({"batch": 1}, {"batch": 8}, ("batch changed: 1 → 8",)),
        ({"options": {"bits": 8}}, {"options": {"bits": 4}}, ("option bits changed: 8 → 4",)),
        ({"recipe": {"batch": 1}}, {"recipe": {"batch": 8}}, ("batch changed: 1 → 8",)),
        ({"here": ["a"]}, {"here": ["b"]}, ("runtimes changed: ['a'] → ['b']",)),
        ({"key": "sha256:a"}, {"key": "sha256:b"}, ("key changed",)),
        ({}, {"batch": 8}, ("batch changed",)),
        (1, 2, ("input changed: 1 → 2",)),
        ({"batch": 8}, {"batch": 8}, ()),
    ],
)
def test_a_change_in_words(before, after, lines) -> None:
    assert differences(before, after) == lines


def test_files_of_code_stand_in_one_line_before_the_rest() -> None:
    before = {"batch": 1, "code": {"net.py": "a", "data.py": "a", "same.py": "a"}}
    after = {"batch": 8, "code": {"net.py": "b", "data.py": "b", "same.py": "a"}}
    assert differences(before, after) == (
        "code changed: net.py, data.py",
        "batch changed: 1 → 8",
    )


def test_what_comes_of_earlier_work_gives_way_to_its_cause() -> None:
    before, after = {"unit": "a", "graph": "a"}, {"unit": "b", "graph": "b"}
    assert differences(before, after) == ("model changed", "graph changed")
    assert differences(before, after, ["code changed: net.py"]) == ("code changed: net.py",)
    own = differences({**before, "batch": 1}, {**after, "batch": 8}, ["code changed: net.py"])
    assert own == ("batch changed: 1 → 8",)


def test_three_reasons_and_how_many_more() -> None:
    assert in_words(["a", "b", "c"]) == "a; b; c"
    assert in_words(["a", "b", "c", "d", "e"]) == "a; b; c; 2 more"
