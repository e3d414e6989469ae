"""Which of many inputs is another than last time, in words like "code changed: net.py"."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rtc.compiler.core.hashing import canonical, digest

_LONGEST = 60  # characters of a value that is kept as it is
_WIDEST = 64  # entries of a mapping that is
_TOLD = 3
_WHOLE = frozenset({"statistics", "plan"})  # numbers by the hundred, none of which tells anything
_CALLED = {"unit": "model", "statistics": "ranges"}
_LISTED = {"code": "code changed", "files": "file changed"}  # what lies below has names of its own
_absent = object()


def outline(inputs: Any) -> Any:
    """Inputs of JSON types with a digest in place of everything that is long."""
    if isinstance(inputs, Mapping) and len(inputs) <= _WIDEST:
        return {
            str(name): digest(canonical(value)) if name in _WHOLE else outline(value)
            for name, value in inputs.items()
        }
    content = canonical(inputs)
    return json.loads(content) if len(content) <= _LONGEST else digest(content)


def differences(before: Any, after: Any) -> str:
    """What differs between two outlines: the first three things, and how many more."""
    told: list[str] = []
    named: dict[str, list[str]] = {}
    for path, old, new in _unequal(before, after, ()):
        if len(path) > 1 and path[0] in _LISTED:
            named.setdefault(path[0], []).append(".".join(path[1:]))
        else:
            told.append(_words(path, old, new))
    told = [f"{_LISTED[kind]}: {', '.join(names)}" for kind, names in named.items()] + told
    more = [f"{len(told) - _TOLD} more"] if len(told) > _TOLD else []
    return "; ".join([*told[:_TOLD], *more])


def _unequal(before: Any, after: Any, path: tuple[str, ...]) -> Iterator[tuple[Any, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*after, *before]):
            old, new = before.get(name, _absent), after.get(name, _absent)
            yield from _unequal(old, new, (*path, name))
    elif before != after:
        yield path, before, after


def _words(path: tuple[str, ...], old: Any, new: Any) -> str:
    if path[:1] == ("options",) and len(path) > 1:
        what = f"option {'.'.join(path[1:])}"
    else:
        what = ".".join((_CALLED.get(path[0], path[0]), *path[1:])) if path else "input"
    return f"{what} changed: {old} → {new}" if _plain(old) and _plain(new) else f"{what} changed"


def _plain(value: Any) -> bool:
    """Whether a value tells a reader anything."""
    if value is _absent or isinstance(value, dict):
        return False
    return not (isinstance(value, str) and value.startswith("sha256:"))
