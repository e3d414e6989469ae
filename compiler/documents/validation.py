"""Values of a YAML document against a type; each of pydantic's errors becomes one placed line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import nearest
from rtc.compiler.documents.strict_yaml import Document, Place

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_SHOWN = 3


def validated(adapter: TypeAdapter[T], value: object, document: Document, at: Place) -> T:
    """The value at `at` of the document, as the adapter's type.

    Raises:
        RecipeError: the first fault in reading order; its `fix` tells of the others.
    """
    try:
        # JSON mode: strict about types, and still takes a list for a tuple and text for an enum.
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as cause:
        schema = adapter.json_schema()
        faults = cause.errors(include_url=False)
        errors = [_error(fault, schema, document, at) for fault in faults]
        marks = [document.mark((*at, *f["loc"]), key=f["type"] in _UNKNOWN) for f in faults]
        misspelt = {(f["loc"][:-1], e.fix) for f, e in zip(faults, errors, strict=True)}
        told = [
            (mark, error)
            for mark, fault, error in zip(marks, faults, errors, strict=True)
            if not (fault["type"] == "missing" and _meant(fault["loc"]) in misspelt)
        ]
        raise _joined([error for _, error in sorted(told, key=_first)]) from cause


def _meant(loc: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], str]:
    """What is said of a key in the same section that means this one."""
    return loc[:-1], f'did you mean "{loc[-1]}"?'


def _first(pair: tuple[Any, RecipeError]) -> Any:
    return pair[0]


def _joined(errors: Sequence[RecipeError]) -> RecipeError:
    """The first error, with the others in its `fix`: one line for all."""
    first, *others = errors
    if others:
        listed = " · ".join(f"{error.where}: {error.what}" for error in others[:_SHOWN])
        more = f"and {len(others)} more: {listed}" + (" · …" if len(others) > _SHOWN else "")
        first.fix = f"{first.fix}; {more}" if first.fix else more
    return first


def _error(
    fault: ErrorDetails, schema: dict[str, Any], document: Document, at: Place
) -> RecipeError:
    loc, kind = fault["loc"], fault["type"]
    inside = _schema_at(schema, loc[:-1])
    if kind in _UNKNOWN:
        return RecipeError(
            f"unknown key {str(loc[-1])!r}{_section((*at, *loc[:-1]))}",
            where=document.where((*at, *loc), key=True),
            fix=nearest(str(loc[-1]), inside.get("properties", {})),
            id="unknown-key",
        )
    if kind == "missing":
        described = inside.get("properties", {}).get(loc[-1], {}).get("description", "")
        return RecipeError(
            f"missing key {str(loc[-1])!r}{_section((*at, *loc[:-1]))}",
            where=document.where((*at, *loc[:-1])),
            fix=f"add {loc[-1]}: {described}".rstrip(": "),
            id="missing-key",
        )
    return _wrong_value(fault, _schema_at(schema, loc), document, at)


def _wrong_value(
    fault: ErrorDetails, schema: dict[str, Any], document: Document, at: Place
) -> RecipeError:
    seen = fault["input"]
    place = document.known((*at, *fault["loc"]))
    what = f"{'.'.join(map(str, place)) or 'the recipe'}: wrong value"
    expected = re.sub(r"^(Input|\w+) should (be |have )?", "", fault["msg"])
    fix = ""
    if fault["type"] in ("value_error", "assertion_error"):
        what, expected = f"{'.'.join(map(str, place))} {fault['ctx']['error']}", ""
    elif fault["type"] in ("enum", "literal_error"):
        fix = nearest(seen, re.findall(r"'([^']*)'", expected)) if isinstance(seen, str) else ""
    elif fault["type"] == "string_pattern_mismatch":
        fix = schema.get("description", "")
    elif fault["type"] == "string_type" and isinstance(seen, int | float):
        fix = "put it in quotes"
    elif fault["type"] == "bool_type":
        expected = "true or false"
    return RecipeError(
        what,
        where=document.where(place),
        seen="" if isinstance(seen, dict | list) else _short(seen),
        expected=expected,
        fix=fix,
        id="wrong-value",
    )


def _section(place: Sequence[str | int]) -> str:
    return f" in {'.'.join(map(str, place))}" if place else ""


def _short(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _schema_at(schema: dict[str, Any], loc: Iterable[str | int]) -> dict[str, Any]:
    """The part of a JSON Schema that describes an address; empty where it says nothing."""
    definitions = schema.get("$defs", {})
    resolved = _resolve(schema, definitions)
    for step in loc:
        inner = resolved.get("properties", {}).get(step)
        inner = inner or resolved.get("items" if isinstance(step, int) else "additionalProperties")
        resolved = _resolve(inner if isinstance(inner, dict) else {}, definitions)
    return resolved


def _resolve(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Follow a `$ref`, and of an optional value take the value; the outer description wins."""
    outer = dict(schema)
    options = [option for option in outer.pop("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        return {**_resolve(options[0], definitions), **outer}
    if "$ref" in outer:
        target = definitions.get(str(outer.pop("$ref")).rsplit("/", 1)[-1], {})
        return {**_resolve(target, definitions), **outer}
    return outer
