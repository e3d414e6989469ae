"""Doors for other people's classes: by name, by entry point of a package, or as "module:Class"."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Generic, TypeVar

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import REFERENCE, load_object, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Door(Generic[T]):
    """Where classes of one kind are found.

    Attributes:
        group: the entry points that packages register theirs in: "rtc.backends".
        kind: the class that every one is made from.
        noun: what one is called in errors: "backend".
        own: rtc's own. Its metadata registers the same, which a source tree does not have.
    """

    group: str
    kind: type[T]
    noun: str
    own: Mapping[str, str]

    def known(self) -> Mapping[str, str]:
        """References "module:Class" by name: rtc's own, then those that packages register.

        Raises:
            RecipeError: two packages register a name for different classes ("name-taken").
        """
        references = dict(self.own)
        for name, reference in _registered(self.group, tuple(sys.path)):
            if references.setdefault(name, reference) != reference:
                raise RecipeError(
                    f"two classes are registered as the {self.noun} {name!r}",
                    where=f"entry points {self.group}",
                    seen=f"{references[name]} and {reference}",
                    fix="uninstall one of their packages",
                    id="name-taken",
                )
        return MappingProxyType(references)

    def reference(self, name: str) -> str:
        """The "module:Class" behind a name, or the name where it is of that form itself.

        Raises:
            RecipeError: nothing is registered under that name ("unknown-backend").
        """
        known = self.known()
        if name in known:
            return known[name]
        if REFERENCE.match(name):
            return name
        raise RecipeError(
            f"there is no {self.noun} {name!r}", fix=nearest(name, known), id=f"unknown-{self.noun}"
        )

    def find(self, name: str, where: str = "") -> type[T]:
        """The class behind a name; its module is imported.

        Raises:
            RecipeError: nothing is registered, the module is not there or fails, or what it has is
                no whole class of the kind ("not-a-backend").
        """
        reference = self.reference(name)
        registered = load_object(reference, where=where or f"{self.noun} {name}")
        base = f"{self.kind.__module__}.{self.kind.__name__}"
        if not (inspect.isclass(registered) and issubclass(registered, self.kind)):
            raise RecipeError(
                f"{reference} is not {_article(self.noun)} {self.noun}",
                where=where,
                seen=f"the class {registered.__name__}"
                if inspect.isclass(registered)
                else repr(registered)[:80],
                expected=f"a class that is made from {base}",
                fix=f"name such a class, or make this one from {base.rpartition('.')[2]}",
                id=f"not-{_article(self.noun)}-{self.noun}",
            )
        missing = sorted(getattr(registered, "__abstractmethods__", ()))
        if missing:
            raise RecipeError(
                f"the {self.noun} {reference} lacks methods",
                where=where,
                seen=f"no {', '.join(missing)}",
                expected=f"every abstract method of {base}",
                fix="write them",
                id=f"not-{_article(self.noun)}-{self.noun}",
            )
        return registered


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


@cache
def _registered(
    group: str,
    path: tuple[str, ...],  # noqa: ARG001 - what is found there is kept for as long as it stays
) -> tuple[tuple[str, str], ...]:
    """Names and references of a group's entry points; `path` is where packages are looked for."""
    return tuple(sorted((point.name, point.value.strip()) for point in entry_points(group=group)))
