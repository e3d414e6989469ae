"""`rtc recipe check | schema | new`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtc.compiler.cli.answer import Answer, command, group
from rtc.compiler.core.errors import MachineError, RecipeError
from rtc.compiler.core.naming import FOLDER_NAME

if TYPE_CHECKING:
    from rtc.compiler.recipe import Recipe

app = group("recipe", "Check a recipe, print the schema of recipes, or write a new one.")
SCHEMA_FILE = "recipe.schema.json"


@command(app, "check")
def check(recipe: Annotated[Path, typer.Argument(help="The recipe file.")]) -> Answer:
    """Check a recipe without running anything, and print what it would do.

    \b
    Example:
      rtc recipe check recipes/lenet5-mnist.yaml
    """
    from rtc.compiler.recipe import load_recipe

    checked = load_recipe(recipe)
    return Answer({"recipe": checked.identity(), "path": str(recipe)}, _flow(checked))


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
    from rtc.compiler.recipe import schema as recipe_schema

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
    _write_new(path, _starter(name, _below(onnx, path.parent)))
    _write_schema(beside)
    text = f"wrote {path} and {beside}\ncheck it: rtc recipe check {path}"
    return Answer({"path": str(path), "schema_path": str(beside)}, text)


def _starter(name: str, onnx: str | None) -> str:
    """The text of a new recipe."""
    from importlib import resources

    file = "starter.yaml" if onnx is None else "starter-onnx.yaml"
    text = resources.files("rtc.compiler.cli").joinpath(file).read_text(encoding="utf-8")
    text = text.replace("name: my-model", f"name: {name}", 1)
    return text if onnx is None else text.replace("model.onnx", json.dumps(onnx), 1)


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
    from rtc.compiler.recipe import schema as recipe_schema

    path.write_text(json.dumps(recipe_schema(), indent=2) + "\n", encoding="utf-8")
