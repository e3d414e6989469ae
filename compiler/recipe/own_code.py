"""Which of rtc's own source a piece of work stands on: the modules that it imports, and theirs.

A result made by other code is another result; one that the changed code has no part in is not. What
is imported inside a function counts too, and so does what the text names as "module:name", as the
entries of child processes are. What is found by a name of a recipe (a pass, a runtime, a network)
is not in any text: whoever uses it names its module.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from rtc.compiler.core.hashing import digest, file_digest

_TOPS = ("compiler", "passes", "calibration", "targets", "recipes")
_LAZY = "rtc.compiler"  # its `__init__` names all that users need, and imports it when asked for
_IMPORTS = re.compile(
    r"^[ \t]*(?:from[ \t]+(rtc[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)"
    r"|import[ \t]+(rtc[\w.]+))",
    re.MULTILINE,
)
_NAMED = re.compile(r"[\"'](rtc\.[\w.]+):\w+[\"']")


def code_digest() -> str:
    """A digest of all of rtc's own source."""
    return digest(
        [
            (file.relative_to(folder).as_posix(), _file_digest(file))
            for top in _TOPS
            if (folder := _folder(top))
            for file in sorted(folder.rglob("*"))
            if file.suffix in {".py", ".j2", ".css", ".js"} and file.is_file()
        ]
    )


def code_of(modules: Iterable[str]) -> str:
    """A digest of these modules of rtc and of all that they import; others are no code of rtc's."""
    own = sorted({module for module in modules if _is_own(module)})
    return digest(_marks(tuple(own)))


@functools.cache
def _marks(modules: tuple[str, ...]) -> list[tuple[str, str]]:
    digests: dict[str, str] = {}
    for module in modules:
        _follow(module, digests)
    return sorted(digests.items())


def _follow(module: str, digests: dict[str, str]) -> None:
    """Add a module, the packages around it, and everything that they import."""
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in digests or not _is_own(name):
            continue
        waiting.append(name.rpartition(".")[0])
        path = _path(name)
        if path is None:  # an object of a module
            continue
        digests[name] = _file_digest(path)
        if name != _LAZY:
            waiting += _imported(path)


@functools.cache
def _imported(path: Path) -> tuple[str, ...]:
    """Names in a file's text that may be modules of rtc; some are objects in one."""
    text = path.read_text(encoding="utf-8")
    names = {named[1] for named in _NAMED.finditer(text)}
    for base, given, plain in _IMPORTS.findall(text):
        names |= {base or plain}
        words = re.findall(r"\w+", re.sub(r"\bas\s+\w+", "", given))
        names |= {f"{base}.{word}" for word in words}
    return tuple(sorted(names))


def _is_own(module: str) -> bool:
    return module.startswith(tuple(f"rtc.{top}" for top in _TOPS))


@functools.cache
def _file_digest(path: Path) -> str:
    return file_digest(path)


@functools.cache
def _folder(top: str) -> Path | None:
    """Where a package at the top lies; None where it is not installed."""
    spec = importlib.util.find_spec(f"rtc.{top}")
    return Path(spec.origin).parent if spec and spec.origin else None


@functools.cache
def _path(module: str) -> Path | None:
    """The file of a module; None where there is none of that name."""
    _, top, *rest = module.split(".")
    folder = _folder(top)
    if folder is None:
        return None
    base = folder.joinpath(*rest)
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return file if file.is_file() else None
