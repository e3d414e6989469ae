"""`rtc recipe check | schema | new`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtc.compiler.cli.answer import Answer, command, complain, group
from rtc.compiler.cli.starter import facts_of, starter
from rtc.compiler.core.errors import MachineError, RecipeError, RtcError
from rtc.compiler.core.naming import FOLDER_NAME

if TYPE_CHECKING:
    from rtc.compiler.recipe.schema import Recipe

app = group("recipe", "Check a recipe, print the schema of recipes, or write a new one.")
SCHEMA_FILE = "recipe.schema.json"


@command(app, "check")
def check(recipe: Annotated[Path, typer.Argument(help="The recipe file.")]) -> Answer:
    """Check a recipe without running anything, and print what it would do.

    Looks for what it names (modules, files, targets, layers of an ONNX model), and whether the
    samples of an .npz file fit the model.

    \b
    Example:
      rtc recipe check recipes/lenet5-mnist.yaml
    """
    checked = _checked(recipe)
    return Answer({"recipe": checked.identity(), "path": str(recipe)}, _flow(checked))


def _checked(path: Path) -> Recipe:
    """The recipe, where nothing is wrong with it.

    Raises:
        RtcError: the first fault; the others are told on stderr.
    """
    from rtc.compiler.documents.strict_yaml import read
    from rtc.compiler.frontend.recipe_check import faults
    from rtc.compiler.recipe.schema import load_recipe, parse_recipe

    errors: list[RtcError] = []
    try:
        recipe = load_recipe(path)
    except RecipeError as error:
        if error.id != "missing-file" or not path.is_file():
            raise
        errors.append(error)
        recipe = parse_recipe(read(path), path)
    errors += faults(recipe)
    for other in errors[1:]:
        complain(other)
    if errors:
        raise errors[0]
    return recipe


def _flow(recipe: Recipe) -> str:
    """The recipe as the sequence that it runs."""
    source = recipe.source.factory or recipe.source.onnx
    lines = [f"{recipe.name} {recipe.version}: ok", f"  source  {source}"]
    for step in recipe.passes:
        options = ", ".join(f"{name}={value!r}" for name, value in step.options().items())
        lines.append(f"  {step.takes.value:<6}  {step.name}" + (f"({options})" if options else ""))
    offered = ", ".join(str(variant) for variant in recipe.precision.offer)
    lines.append(f"  build   {offered} for {', '.join(recipe.targets)} at batch {recipe.batch}")
    return "\n".join(lines)


@command(app, "schema")
def schema() -> Answer:
    """Print the JSON Schema of recipes, for editors and for other tools.

    \b
    Example:
      rtc recipe schema > recipe.schema.json
    """
    from rtc.compiler.recipe.schema import schema as recipe_schema

    document = recipe_schema()
    return Answer(document, json.dumps(document, indent=2))


@command(app, "new")
def new(
    name: Annotated[str, typer.Argument(help="The recipe's name.")] = "my-model",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; NAME.yaml when not given."),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option("--onnx", help="Start from this ONNX file, at or below the recipe's folder."),
    ] = None,
) -> Answer:
    """Write a commented starter recipe, and the schema that its editor line names.

    \b
    Example:
      rtc recipe new my-model --output recipes/my-model.yaml
    """
    name = name.removesuffix(".yaml")
    if not re.fullmatch(FOLDER_NAME, name):
        raise RecipeError("not a recipe's name", seen=repr(name), expected="letters, digits, . _ -")
    path = output or Path(f"{name}.yaml")
    beside = path.parent / SCHEMA_FILE
    inside = _below(onnx, path.parent)
    facts = {} if onnx is None else facts_of(onnx)
    _write_new(path, starter(name, inside, facts))
    _write_schema(beside)
    text = f"wrote {path} and {beside}\n"
    if facts:
        text += (
            f"samples are yours to give, beside it: np.savez({str(path.parent / 'samples.npz')!r}, "
            f"x=…, y=…) with x {facts['dtype']} ({facts['shape']}) and y (N,) of class indices, "
            f"0 to {facts['last']}\n"
        )
    text += f"check it: rtc recipe check {path}"
    return Answer({"path": str(path), "schema_path": str(beside)}, text)


def _below(onnx: Path | None, folder: Path) -> str | None:
    """The ONNX file as a recipe in that folder names it."""
    if onnx is None:
        return None
    if not onnx.is_file():
        raise RecipeError("there is no such file", where=str(onnx), id="missing-file")
    try:
        return onnx.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError as cause:
        raise RecipeError(
            "the ONNX file is not below the recipe's folder",
            where=str(onnx),
            expected=f"below {folder.resolve()}",
            fix="copy the model there, or give another --output",
        ) from cause


def _write_new(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as cause:
        what = "there is such a file, and it is not overwritten"
        raise RecipeError(what, where=str(path), fix="give another --output") from cause
    except OSError as cause:
        raise MachineError(f"cannot write it: {cause.strerror}", where=str(path)) from cause


def _write_schema(path: Path) -> None:
    """The schema for editors; a generated file, so it is brought up to date where it is there."""
    from rtc.compiler.recipe.schema import schema as recipe_schema

    path.write_text(json.dumps(recipe_schema(), indent=2) + "\n", encoding="utf-8")
