"""YAML that cannot surprise: a small, safe part of YAML 1.2, with the place of every value.

Refused, each with its place: duplicate keys, anchors, aliases and merge keys (a few bytes can stand
for gigabytes), tags (`!!python/object` and all others), several documents, NaN and infinities,
numbers that do not fit 64 bits, nesting deeper than 32, files over 64 KiB, and bytes that are not
UTF-8. Plain scalars follow the YAML 1.2 core schema: `1e-3` is a number, `no` and `on` are text.
Keys are always text.

The parser is PyYAML's; only its events are used, so no constructor of PyYAML ever runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rtc.compiler.core.errors import RecipeError

Place = tuple[str | int, ...]
"""A value's address in a document: ("passes", 0, "train", "epochs")."""

Mark = tuple[int, int]
"""Line and column, both from 1."""

MAX_BYTES = 64 * 1024  # the parser takes about 50 µs a value, and a recipe is 2 KiB
MAX_DEPTH = 32

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class Document:
    """A parsed file: its value, and where each value and each key of it stands."""

    source: str
    text: str
    value: Any
    values: Mapping[Place, Mark] = field(default_factory=dict)
    keys: Mapping[Place, Mark] = field(default_factory=dict)

    def where(self, place: Sequence[str | int], *, key: bool = False) -> str:
        """`file:line:column` of a value (or of its key), or of the nearest one around it."""
        line, column = self.mark(place, key=key)
        return f"{self.source}:{line}:{column}"

    def mark(self, place: Sequence[str | int], *, key: bool = False) -> Mark:
        """Line and column for `where`."""
        known = self.known(place)
        marks = self.keys if key and known in self.keys else self.values
        return marks.get(known, (1, 1))

    def known(self, place: Sequence[str | int]) -> Place:
        """An address without the steps that the document does not have."""
        known: Place = ()
        for step in place:
            if (*known, step) in self.values:
                known = (*known, step)
        return known


def read(path: Path, *, what: str = "recipe", limit: int = MAX_BYTES) -> Document:
    """Read and parse a file of `limit` bytes at most; `what` it is, for the error.

    Raises:
        RecipeError: it cannot be read, is too large, or is not in this part of YAML.
    """
    try:
        if not path.is_file():
            missing = "it is not a file" if path.exists() else "there is no such file"
            raise RecipeError(f"cannot read it: {missing}", where=str(path), id="missing-file")
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except (OSError, ValueError) as cause:
        raise RecipeError(f"cannot read it: {cause}", where=str(path)) from cause
    return parse(content, str(path), what=what, limit=limit)


def parse(content: bytes, source: str, *, what: str = "recipe", limit: int = MAX_BYTES) -> Document:
    """Parse bytes; `source` names them in errors.

    Raises:
        RecipeError: too large, or not in this part of YAML.
    """
    if len(content) > limit:
        raise RecipeError(
            f"the file is too large to be a {what}",
            where=source,
            expected=f"at most {limit // 1024} KiB",
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = content.count(b"\n", 0, cause.start) + 1
        raise RecipeError(
            "the file is not UTF-8 text",
            where=f"{source}:{line}",
            seen=f"byte 0x{content[cause.start]:02x}",
            fix="save it as UTF-8",
        ) from cause
    return _Parser(source, text).document()


class _Parser:
    """One walk over the events of a text, noting the place of every value."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.text = text
        self.values: dict[Place, Mark] = {}
        self.keys: dict[Place, Mark] = {}

    def document(self) -> Document:
        try:
            # PyYAML checks the characters of the whole text as soon as it has a parser.
            events: Iterator[Any] = yaml.parse(self.text, Loader=yaml.SafeLoader)
            value = self._stream(events)
        except yaml.MarkedYAMLError as cause:
            what = cause.problem or cause.context or "not YAML"
            at = _mark(cause.problem_mark or cause.context_mark)
            raise self._error(f"not YAML: {what}", at) from cause
        except yaml.reader.ReaderError as cause:
            before = self.text[: cause.position]
            at = (before.count("\n") + 1, len(before) - before.rfind("\n"))
            seen = f"character U+{ord(self.text[cause.position]):04X}"
            raise self._error("a character that YAML does not allow", at, seen=seen) from cause
        return Document(self.source, self.text, value, self.values, self.keys)

    def _stream(self, events: Iterator[Any]) -> Any:
        value = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error("a second document", event, expected="one document")
                value = self._value(next(events), events, ())
        return value

    def _value(self, event: Any, events: Iterator[Any], place: Place) -> Any:
        self._refuse(event, place)
        self.values[place] = _mark(event.start_mark)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, place)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                items.append(self._value(item, events, (*place, len(items))))
            return items
        return self._scalar(event)

    def _mapping(self, events: Iterator[Any], place: Place) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            self._refuse(event, place)
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error("a key must be text", event, seen="a list or a mapping")
            key = self._text(event)
            inner = (*place, key)
            if key in mapping:
                first = "{}:{}:{}".format(self.source, *self.keys[inner])
                raise self._error(f"duplicate key {key!r}", event, fix=f"it is first at {first}")
            if event.implicit[0] and key == "<<":
                raise self._error("merge keys are not allowed", event, fix="write the keys out")
            self.keys[inner] = _mark(event.start_mark)
            mapping[key] = self._value(next(events), events, inner)
        return mapping

    def _refuse(self, event: Any, place: Place) -> None:
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise self._error(
                "anchors and aliases are not allowed",
                event,
                seen=("*" if isinstance(event, yaml.AliasEvent) else "&")
                + repr(event.anchor)[1:-1],
                fix="write the value out",
            )
        if event.tag:
            raise self._error("tags are not allowed", event, seen=repr(event.tag), fix="remove it")
        if len(place) >= MAX_DEPTH:
            raise self._error("nested too deep", event, expected=f"at most {MAX_DEPTH} levels")

    def _scalar(self, event: Any) -> Any:
        text = self._text(event)
        if not event.implicit[0] or event.style is not None:
            return text
        if _INT.fullmatch(text):
            return self._integer(text, event)
        if _FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text):
            return self._float(text, event)
        return _WORDS.get(text, text)

    def _text(self, event: Any) -> str:
        text = str(event.value)
        if _SURROGATE.search(text):
            raise self._error("half of a surrogate pair is not a character", event)
        return text

    def _integer(self, text: str, event: Any) -> int:
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        # Digits are counted first: converting a long number takes time that grows as its square.
        value = int(text, base) if len(text) <= 32 else 1 << 64
        if not -(1 << 63) <= value < 1 << 63:
            raise self._error("a number too large", event, seen=_short(text), expected="64 bits")
        return value

    def _float(self, text: str, event: Any) -> float:
        value = math.inf if _NOT_FINITE.fullmatch(text) else float(text)
        if not math.isfinite(value):
            raise self._error("not a finite number", event, seen=_short(text))
        return value

    def _error(
        self, what: str, at: Any, *, seen: str = "", expected: str = "", fix: str = ""
    ) -> RecipeError:
        line, column = at if isinstance(at, tuple) else _mark(at.start_mark)
        where = f"{self.source}:{line}:{column}"
        return RecipeError(what, where=where, seen=seen, expected=expected, fix=fix, id="yaml")


def _mark(mark: Any) -> Mark:
    return (mark.line + 1, mark.column + 1)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
