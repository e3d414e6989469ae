"""Which of many inputs is another than last time, in words like "code changed: net.py"."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rtc.compiler.core.hashing import canonical, digest

_LONGEST = 60  # characters of a value that is kept as it is
_WIDEST = 64  # entries of a mapping that is
_TOLD = 3
_WHOLE = frozenset({"statistics", "plan"})  # numbers by the hundred, none of which tells anything
_MADE = {
    "data": "data",
    **dict.fromkeys(("unit", "model", "reference", "incoming", "eager", "held"), "model"),
    **dict.fromkeys(("graph", "graphs"), "graph"),
    **dict.fromkeys(("engines", "layers"), "engines"),
    **dict.fromkeys(("statistics", "wanted", "anew"), "ranges"),
    **dict.fromkeys(("plan", "float"), "plan"),
}
"""What comes of earlier work, by the name of an input: it changes because something else did."""
_CALLED = {"recipe": "", "backends": "runtimes", "here": "runtimes"}
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


def differences(before: Any, after: Any, cause: Sequence[str] = ()) -> tuple[str, ...]:
    """What differs between two outlines, what a person has changed first.

    `cause`: why what comes of earlier work differs, where that is known. It stands in its place.
    """
    own: list[str] = []
    made: list[str] = []
    named: dict[str, list[str]] = {}
    for path, old, new in _unequal(before, after, ()):
        if len(path) > 1 and path[0] in _LISTED:
            named.setdefault(path[0], []).append(".".join(path[1:]))
        elif path and path[0] in _MADE:
            made.append(f"{_MADE[path[0]]} changed")
        else:
            own.append(_words(path, old, new))
    own = [f"{_LISTED[kind]}: {', '.join(names)}" for kind, names in named.items()] + own
    if cause and made:
        return tuple(own or cause)
    return tuple(dict.fromkeys([*own, *made]))


def in_words(reasons: Sequence[str]) -> str:
    """The first three reasons, and how many more there are."""
    more = [f"{len(reasons) - _TOLD} more"] if len(reasons) > _TOLD else []
    return "; ".join([*reasons[:_TOLD], *more])


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
        names = (_CALLED.get(path[0], path[0]), *path[1:]) if path else ("input",)
        what = ".".join(filter(None, names)) or "recipe"
    return f"{what} changed: {old} → {new}" if _plain(old) and _plain(new) else f"{what} changed"


def _plain(value: Any) -> bool:
    """Whether a value tells a reader anything."""
    if value is _absent or isinstance(value, dict):
        return False
    return not (isinstance(value, str) and value.startswith("sha256:"))
