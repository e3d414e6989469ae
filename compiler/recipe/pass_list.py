"""The `passes:` of a recipe: names and options into pass values, in an order that can run."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from rtc.compiler.core.errors import RecipeError, RtcError
from rtc.compiler.core.passes import Pass
from rtc.compiler.core.unit import Level
from rtc.compiler.documents.strict_yaml import Document, Place
from rtc.compiler.documents.validation import validated

_VALIDATION: JsonSchemaMode = "validation"


def read(document: Document, entries: Sequence[Any]) -> tuple[Pass, ...]:
    """The passes that the entries of `passes:` describe.

    Raises:
        RecipeError: not a name or one {name: {options}}, an unknown pass, or a wrong option.
    """
    return tuple(_read(document, entry, ("passes", i)) for i, entry in enumerate(entries))


def _read(document: Document, entry: object, at: Place) -> Pass:
    from rtc.passes.registry import pass_class

    if isinstance(entry, str):
        name, options = entry, None
    elif isinstance(entry, dict) and len(entry) == 1:
        ((name, options),) = entry.items()
        at = (*at, name)
    else:
        raise RecipeError(
            "not a pass",
            where=document.where(at),
            seen=f"{len(entry)} keys" if isinstance(entry, dict) else type(entry).__name__,
            expected="a name, or one {name: {options}}",
            fix="indent the options below the pass's name" if isinstance(entry, dict) else "",
        )
    try:
        kind = pass_class(name)
        return validated(TypeAdapter(kind), {} if options is None else options, document, at)
    except RtcError as error:
        # A registry and a pass's own checks know what is wrong, and not where it stands.
        if not error.where.startswith(document.source):
            error.where = document.where(at, key=True)
        raise


def check_order(document: Document, passes: Sequence[Pass], level: Level) -> None:
    """Refuse passes that do not lead from the source's level to ONNX.

    Raises:
        RecipeError: a pass that cannot work on what reaches it, or a model that is never exported.
    """
    exported = ""
    for index, step in enumerate(passes):
        where = document.where(("passes", index))
        if step.takes is not level:
            raise RecipeError(
                f"{step.name} works on {_called(step.takes)}, and here it is {_called(level)}",
                where=where,
                id="pass-order",
                fix=_fix(step, exported),
            )
        if step.takes is not step.gives:
            exported = f"{step.name} at {where}"
        level = step.gives
    if level is not Level.ONNX:
        raise RecipeError(
            "the PyTorch model is never exported",
            where=document.where(("passes",)),
            fix='add "- export-onnx" after the passes that work on PyTorch models',
            id="pass-order",
        )


def _called(level: Level) -> str:
    return "a PyTorch model" if level is Level.TORCH else "an ONNX model"


def _fix(step: Pass, exported: str) -> str:
    if step.takes is Level.ONNX:
        return 'put "- export-onnx" before it'
    if exported:
        return f"move it before {exported}, or remove it"
    return "remove it, or give source.factory in place of source.onnx"


def schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """JSON Schema of one entry of `passes:`, and the definitions that it refers to."""
    from rtc.passes.registry import PASSES, pass_class

    kinds = {name: pass_class(name) for name in sorted(PASSES)}
    adapters = [(name, _VALIDATION, TypeAdapter(kind)) for name, kind in kinds.items()]
    schemas, shared = TypeAdapter.json_schemas(adapters)
    options = {name: {"anyOf": [schemas[name, _VALIDATION], {"type": "null"}]} for name in kinds}
    definitions: dict[str, Any] = shared.get("$defs", {})
    for kind in kinds.values():
        describe(definitions[kind.__name__], kind)
    entry = {
        "oneOf": [
            {"enum": [name for name, kind in kinds.items() if not _required(kind)]},
            {
                "type": "object",
                "properties": options,
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }
    return entry, definitions


def _required(kind: type[Pass]) -> bool:
    """Whether some option has no default."""
    missing = dataclasses.MISSING
    return any(
        f.default is missing and f.default_factory is missing for f in dataclasses.fields(kind)
    )


def describe(definition: dict[str, Any], kind: type[Pass]) -> None:
    """Take the descriptions of a pass and of its options from its classes' docstrings."""
    definition["description"] = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__doc__ or "")
        for name, said in re.findall(r"^ {4}(\w+): (.+(?:\n {8,}.+)*)", text, re.MULTILINE):
            if name in definition.get("properties", {}):
                definition["properties"][name]["description"] = re.sub(r"\s+", " ", said)
