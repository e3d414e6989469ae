"""What YAML is refused, where the error points, and how plain scalars are read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.documents import strict_yaml


def error(content: bytes | str) -> RecipeError:
    raw = content if isinstance(content, bytes) else content.encode()
    with pytest.raises(RecipeError) as caught:
        strict_yaml.parse(raw, "r.yaml")
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-7", -7),
        ("0x10", 16),
        ("0o17", 15),
        ("017", 17),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1.0.0", "1.0.0"),
        ("2001-01-01", "2001-01-01"),
        ("'1'", "1"),
        ('"null"', "null"),
        ("[a, {b: 1}]", ["a", {"b": 1}]),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = strict_yaml.parse(f"a: {text}".encode(), "r.yaml").value["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text() -> None:
    assert strict_yaml.parse(b"1: a\ntrue: b\n? c\n: d", "r").value == {
        "1": "a",
        "true": "b",
        "c": "d",
    }


def test_places_are_line_and_column_of_keys_and_values() -> None:
    document = strict_yaml.parse(b"a:\n  - x\n  - b: 1\n", "r.yaml")
    assert document.where(("a", 1, "b")) == "r.yaml:3:8"
    assert document.where(("a", 1, "b"), key=True) == "r.yaml:3:5"
    assert document.where(("a", "union tag", 0, "gone")) == "r.yaml:2:5"
    assert document.where(("gone",)) == "r.yaml:1:1"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3", "3:1", "duplicate key 'a'"),
        ("a: &x [1]", "1:4", "anchors"),
        ("a: [*x]", "1:5", "anchors"),
        ("? *x\n: 1", "1:3", "anchors"),
        ("a: {<<: {b: 1}}", "1:5", "merge"),
        ("a: !!python/object/apply:os.system [ls]", "1:4", "tags"),
        ("a: !!str 1", "1:4", "tags"),
        ("a: ! 1", "1:4", "tags"),
        ("--- 1\n--- 2", "2:1", "second document"),
        ("a: .nan", "1:4", "finite"),
        ("a: -.INF", "1:4", "finite"),
        ("a: 1e999", "1:4", "finite"),
        ("a: 9223372036854775808", "1:4", "too large"),
        ("a: 0o" + "7" * 60, "1:4", "too large"),
        ("a: " + "9" * 6000, "1:4", "too large"),
        ("[" * 40, "1:33", "nested"),
        ("- " * 40, "1:65", "nested"),
        ("{a: " * 40, "1:129", "nested"),
        ("? [a]\n: 1", "1:3", "key must be text"),
        ("a: [1", "1:6", "not YAML"),
        ("a:\n\tb: 1", "2:1", "not YAML"),
        ("a: b: c", "1:5", "not YAML"),
        ("a:\n  b: \x1b[31m", "2:6", "character"),
        ('a: "\\ud800"', "1:4", "surrogate"),
    ],
)
def test_refused(text: str, where: str, what: str) -> None:
    refusal = error(text)
    assert refusal.where == f"r.yaml:{where}"
    assert what in refusal.what
    assert len(str(refusal)) < 250


def test_a_duplicate_key_says_where_the_first_is() -> None:
    assert error("a: 1\nb: {c: 1, c: 2}").fix == "it is first at r.yaml:2:5"


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    bomb = "a: &a [x, x]\n" + "\n".join(f"b{i}: &b{i} [*a, *a]" for i in range(1000))
    assert error(bomb).where == "r.yaml:1:4"


def test_bytes_that_are_not_utf8_name_their_line() -> None:
    assert error(b"a: 1\nb: \xff").where == "r.yaml:2"
    assert error("a: 1".encode("utf-16")).what == "the file is not UTF-8 text"


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert strict_yaml.parse(b"\xef\xbb\xbfa: 1", "r").value == {"a": 1}


def test_a_large_file_is_refused(tmp_path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * (strict_yaml.MAX_BYTES + 1))
    with pytest.raises(RecipeError, match="too large"):
        strict_yaml.read(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path) -> None:
    with pytest.raises(RecipeError, match="no such file") as missing:
        strict_yaml.read(tmp_path / "gone.yaml")
    assert (missing.value.id, missing.value.exit_code) == ("missing-file", 2)
    with pytest.raises(RecipeError, match="not a file"):
        strict_yaml.read(tmp_path)


@given(st.text(alphabet="ab:-{}[]\"'&*!|>#?%@`~, \n\t0.\\\x00\x85\ud800", max_size=60) | st.text())
def test_any_text_parses_or_is_refused_in_one_placed_line(text: str) -> None:
    try:
        strict_yaml.parse(text.encode("utf-8", "surrogatepass"), "r.yaml")
    except RecipeError as refusal:
        line = str(refusal)
    else:
        line = "r.yaml:1: fine"
    assert re.match(r"r\.yaml:\d+", line)
    assert "\n" not in line
