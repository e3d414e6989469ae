"""The `passes:` of a recipe: names and options into pass values, in an order that can run."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from rtc.compiler.core.errors import RecipeError, RtcError, first_line
from rtc.compiler.core.naming import REFERENCE
from rtc.compiler.core.passes import Pass
from rtc.compiler.core.unit import Level
from rtc.compiler.documents.strict_yaml import Document, Place
from rtc.compiler.documents.validation import validated
from rtc.compiler.recipe.admission import admit_modules_in
from rtc.compiler.recipe.source_code import referenced_code

_VALIDATION: JsonSchemaMode = "validation"


def read(
    document: Document, entries: Sequence[Any], beside: Path
) -> tuple[tuple[Pass, ...], dict[str, str]]:
    """The passes that the entries of `passes:` describe, and the code of those that are not rtc's.

    A user's own pass is looked for in the folder `beside` as well.

    Raises:
        RecipeError: not a name or one {name: {options}}, an unknown pass, or a wrong option.
    """
    named = [each for entry in entries for each in (entry if isinstance(entry, dict) else [entry])]
    if any(isinstance(name, str) and REFERENCE.match(name) for name in named):
        admit_modules_in(beside)
        referenced_code(named)  # counted before it is imported: an edit meanwhile is seen
    passes = tuple(_read(document, entry, ("passes", i)) for i, entry in enumerate(entries))
    return passes, code_of_own(passes)


def code_of_own(passes: Iterable[Pass]) -> dict[str, str]:
    """Digests by file of the code that the passes stand on which are not rtc's."""
    return referenced_code(own_references(passes))


def own_references(passes: Iterable[Pass]) -> list[str]:
    """Where the passes that are not rtc's are defined: "package.module:Class"."""
    kinds = [type(step) for step in passes]
    return [f"{k.__module__}:{k.__name__}" for k in kinds if not k.__module__.startswith("rtc.")]


def _read(document: Document, entry: object, at: Place) -> Pass:
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
        return _made(name, {} if options is None else options, document, at)
    except RtcError as error:
        # A registry and a pass's own checks know what is wrong, and not where it stands.
        if not error.where.startswith(document.source):
            error.where = document.where(at, key=True)
        raise


def _made(name: str, options: object, document: Document, at: Place) -> Pass:
    """A pass with its options, by the code that defines it, which may be the user's."""
    from rtc.passes.registry import pass_class

    try:
        step = validated(TypeAdapter(pass_class(name)), options, document, at)
        json.dumps(step.options())  # they are part of the stage's key
    except RtcError:
        raise
    except Exception as cause:
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        raise RecipeError(
            f"the pass {name} cannot be made",
            seen=f"{type(cause).__name__}: {first_line(cause)}",
            fix=f"install {missing}" if missing else "mend its class: options are JSON types",
            id="user-code",
        ) from cause
    return step


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
    from rtc.passes.registry import PASSES, PER_TARGET, pass_class

    kinds = {name: pass_class(name) for name in sorted(set(PASSES) - set(PER_TARGET))}
    adapters = [(name, _VALIDATION, TypeAdapter(kind)) for name, kind in kinds.items()]
    schemas, shared = TypeAdapter.json_schemas(adapters)
    options = {name: {"anyOf": [schemas[name, _VALIDATION], {"type": "null"}]} for name in kinds}
    definitions: dict[str, Any] = shared.get("$defs", {})
    for kind in kinds.values():
        describe(definitions[kind.__name__], kind)
    entry = {
        "oneOf": [
            {"enum": [name for name, kind in kinds.items() if not _required(kind)]},
            {"type": "string", "pattern": REFERENCE.pattern},
            {
                "type": "object",
                "properties": options,
                "patternProperties": {REFERENCE.pattern: {"type": ["object", "null"]}},
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
