"""Names given as text: nearest spelling, and objects by "package.module:attribute"."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rtc.compiler.core.errors import RecipeError, RtcError, first_line

REFERENCE = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
"""How a recipe refers to an object: "package.module:name"."""

INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Folders of installed packages, by name."""

FOLDER_NAME = r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*"
"""What a recipe or a device may be called: it names a folder, and never another one than that."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean "x"?`, or the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    return f'did you mean "{close[0]}"?' if close else f"there is: {', '.join(names) or 'nothing'}"


def load_object(reference: str, *, where: str) -> Any:
    """The object that "package.module:attribute" names.

    Raises:
        RecipeError: not of that form, no such module, one that fails, no such attribute.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise RecipeError(
            "not a reference to an object",
            where=where,
            seen=repr(reference),
            expected='"package.module:name"',
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as cause:
        if cause.name is not None and not f"{module_name}.".startswith(f"{cause.name}."):
            raise  # the module exists; something that it imports does not
        fix = where_looked(module_name)
        raise RecipeError(f"no module named {module_name}", where=where, fix=fix) from cause
    except RtcError:
        raise
    except Exception as cause:
        raise RecipeError(
            "this module of the recipe's cannot be imported",
            where=f"{where}: {module_name}",
            seen=_told(cause),
            fix="mend it",
            id="user-code",
        ) from cause
    try:
        return getattr(module, attribute)
    except AttributeError as cause:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise RecipeError(
            f"{module_name} has no {attribute!r}", where=where, fix=nearest(attribute, public)
        ) from cause


def where_looked(module: str) -> str:
    """Where a module was looked for that is not there, and how to mend that.

    The folders that Python was given beside its own and the installed packages' are named: that of
    the recipe is one of them.
    """
    python = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    folders = [Path(entry).resolve() for entry in sys.path if Path(entry).is_dir()]
    own = list(dict.fromkeys(folder for folder in folders if not _is_python(folder, python)))
    known = [each.name for each in pkgutil.iter_modules([str(each) for each in own])]
    top = module.partition(".")[0]
    close = difflib.get_close_matches(top, known, n=1, cutoff=0.6)
    mend = f'did you mean "{close[0]}"?' if close else f"put {top}.py there, or install {top}"
    looked = ", ".join(map(str, own)) or "no folder of the recipe's"
    return f"looked for in {looked} and among the installed packages: {mend}"


def _is_python(folder: Path, python: set[Path]) -> bool:
    """Whether a folder holds Python's own modules or installed packages."""
    return bool({folder, *folder.parents} & python or INSTALLED & set(folder.parts))


def call_object(reference: str, options: Mapping[str, Any], *, where: str) -> Any:
    """What the function that "package.module:name" refers to gives for these options.

    Raises:
        RecipeError: there is no such function, it does not take the options, or it fails.
        RtcError: as the function raised it.
    """
    function = load_object(reference, where=where)
    _check_options(function, options, reference)
    try:
        return function(**options)
    except RtcError as error:
        error.where = error.where or reference
        raise
    except ModuleNotFoundError:
        raise  # an extra that is not installed, and the caller knows which
    except Exception as cause:
        raise RecipeError(
            "this function of the recipe's failed",
            where=f"{where}: {reference}",
            seen=_told(cause),
            fix="mend it, or the options that the recipe gives it",
            id="user-code",
        ) from cause


def _told(cause: Exception) -> str:
    return f"{type(cause).__name__}: {first_line(cause)}"


def _check_options(function: Any, options: Mapping[str, Any], reference: str) -> None:
    if not callable(function):
        raise RecipeError("not a function", where=reference, seen=repr(function))
    known = inspect.signature(function).parameters
    try:
        inspect.signature(function).bind(**options)
    except TypeError as cause:
        unknown = [name for name in options if name not in known]
        raise RecipeError(
            "this function does not take these options",
            where=reference,
            seen=str(cause),
            fix=nearest(unknown[0], known) if unknown else "",
        ) from cause
