"""Names given as text: nearest spelling, and objects by "package.module:attribute"."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from typing import Any

from rtc.compiler.core.errors import RecipeError

REFERENCE = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
"""How a recipe refers to an object: "package.module:name"."""

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
        RecipeError: not of that form, no such module, no such attribute.
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
        if cause.name is not None and not module_name.startswith(cause.name):
            raise  # the module exists; something that it imports does not
        raise RecipeError(f"no module named {module_name}", where=where) from cause
    try:
        return getattr(module, attribute)
    except AttributeError as cause:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise RecipeError(
            f"{module_name} has no {attribute!r}", where=where, fix=nearest(attribute, public)
        ) from cause
