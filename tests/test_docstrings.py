"""Every public class, function, method and property says what it is, or overrides one that does."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cached_property

import pytest

ROOMS = ("compiler", "passes", "calibration", "targets")


def _modules() -> Iterator[str]:
    for room in ROOMS:
        package = importlib.import_module(f"rtc.{room}")
        yield package.__name__
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield module.name


def _undocumented(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    if not module.__doc__ and not name.endswith("__main__"):
        yield name
    for title, thing in vars(module).items():
        if title.startswith("_") or getattr(thing, "__module__", None) != name:
            continue
        if inspect.isclass(thing):
            if not thing.__doc__ or thing.__doc__.startswith(f"{title}("):  # a dataclass's own
                yield f"{name}.{title}"
            yield from (f"{name}.{title}.{each}" for each in _methods(thing))
        elif inspect.isfunction(thing) and not thing.__doc__:
            yield f"{name}.{title}"


def _methods(owner: type) -> Iterator[str]:
    for title, member in vars(owner).items():
        if title.startswith("_"):
            continue
        is_property = isinstance(member, property | cached_property)
        is_method = inspect.isfunction(getattr(member, "__func__", member))
        if (is_property or is_method) and not inspect.getdoc(getattr(owner, title)):
            yield title


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_have_docstrings(room: str) -> None:
    names = [name for name in _modules() if name.split(".")[1] == room]
    assert len(names) > 5
    assert [lack for name in names for lack in _undocumented(name)] == []
