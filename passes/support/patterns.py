"""What a recipe says of layers by name or glob: a name beats every glob, and globs must agree."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import nearest

V = TypeVar("V")


def matching(
    pattern: str, names: Iterable[str], where: str, *, of: str = "layer", id: str = "unmatched-pin"
) -> list[str]:
    """The names that a glob matches, in their order.

    Raises:
        RecipeError: none; `of` says what they are names of.
    """
    known = list(names)
    matched = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
    if not matched:
        raise RecipeError(
            f"this pattern matches no {of}",
            where=where,
            seen=repr(pattern),
            fix=nearest(pattern, known),
            id=id,
        )
    return matched


def by_name(
    asked: Mapping[str, V],
    names: Collection[str],
    matches: Callable[[str], Iterable[str]],
    where: str,
    *,
    id: str = "contradictory-pins",
) -> dict[str, V]:
    """What is asked of each name.

    Args:
        asked: by name or glob.
        names: all there are.
        matches: the names that a glob concerns.
        where: in the recipe.
        id: of the error below.

    Raises:
        RecipeError: two globs ask for different things of a name that is not asked for itself.
    """
    by_glob: dict[str, str] = {}
    for pattern in (pattern for pattern in asked if pattern not in names):
        for name in matches(pattern):
            other = by_glob.setdefault(name, pattern)
            if asked[other] != asked[pattern] and name not in asked:
                raise RecipeError(
                    f"two patterns contradict each other on {name}",
                    where=where,
                    seen=f"{other}: {asked[other]}, {pattern}: {asked[pattern]}",
                    fix=f"name {name} itself, which beats patterns",
                    id=id,
                )
    values = {name: asked[pattern] for name, pattern in by_glob.items()}
    return values | {name: pattern for name, pattern in asked.items() if name in names}
