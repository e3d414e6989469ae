"""Recipes: YAML in, a frozen `Recipe` out; every error is one line with file:line:column.

The models below are the recipe's only definition: parsing, error messages and the JSON Schema all
come from their fields. A pass's options come from the pass's own fields in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    model_validator,
)

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import FOLDER_NAME
from rtc.compiler.core.passes import Pass
from rtc.compiler.core.precision import PrecisionPlan
from rtc.compiler.documents import strict_yaml
from rtc.compiler.documents.validation import validated
from rtc.compiler.recipe import pass_list
from rtc.compiler.recipe.admission import admit_modules_in
from rtc.compiler.recipe.plan_file import read_plan
from rtc.compiler.recipe.sections import (
    Calibration,
    Data,
    Gates,
    Measure,
    PrecisionOptions,
    Section,
    Source,
    _distinct,
)
from rtc.passes.repair.adaround import Adaround
from rtc.passes.repair.correct_bias import CorrectBias

SCHEMA = 1


class _Head(Section):
    """All of a recipe but its passes."""

    recipe: Annotated[int, Field(ge=SCHEMA, le=SCHEMA)]
    """Version of the recipe's schema."""
    name: Annotated[str, Field(pattern=f"^{FOLDER_NAME}$", max_length=80)]
    """Names the folder below build/."""
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?$", max_length=80)]
    """Your version of this recipe: "1.0.0"."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds weights, splits and training."""
    source: Source
    data: Data
    calibration: Calibration | None = None
    precision: PrecisionOptions = PrecisionOptions()
    batch: Annotated[int, Field(ge=1, le=65536)] = 1
    """The batch that the engine is chosen for."""
    targets: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_distinct)] = ("cpu",)
    """Devices to compile for when none is given on the command line; names, or profiles beside."""
    measure: Measure = Measure()
    gates: Gates = Gates()

    @model_validator(mode="after")
    def _attainable(self) -> _Head:
        search = self.precision.search
        if search and search.objective == "accuracy" and self.gates.latency_ms is None:
            raise ValueError("precision.search for accuracy needs gates.latency_ms to keep within")
        return self


class _File(_Head):
    """A recipe as it stands in the file."""

    passes: tuple[Any, ...] = ()
    """In order; each a name, or one {name: {options}}; your own by "package.module:Class"."""


class Recipe(_Head):
    """A recipe that was checked: its passes are values, in an order that can run."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    passes: tuple[Pass, ...]
    pass_code: Mapping[str, str]  # digests by file, of the user's own passes
    path: Path
    text: str

    def identity(self) -> dict[str, Any]:
        """Everything that matters for the result, as JSON types; neither path nor comments."""
        fields = self.model_dump(mode="json", exclude={"path", "text", "passes", "pass_code"})
        steps = [
            [step.name, step.version, step.options(), *pass_list.own_references([step])]
            for step in self.passes
        ]
        return {**fields, "passes": steps}

    def resolve(self, relative: str) -> Path:
        """Where a file that the recipe names lies."""
        return self.path.parent / relative

    def with_budget(self, seconds: float) -> Recipe:
        """The recipe with another time to search in; as it is where it does not search."""
        search = self.precision.search
        if search is None:
            return self
        changed = search.model_copy(update={"seconds": seconds})
        precision = self.precision.model_copy(update={"search": changed})
        return self.model_copy(update={"precision": precision})

    def observer_classes(self) -> list[type]:
        """The classes of every observer that the recipe names, once its code is admitted.

        Raises:
            RecipeError: one that is not there, or is no observer; its place in the recipe.
        """
        from rtc.calibration.observers import make_observer

        by_layer = {f".observers.{name}": kind for name, kind in self.precision.observers.items()}
        named = {".observer": self.precision.observer, **by_layer}
        return [type(make_observer(kind, f"precision{at}")) for at, kind in named.items()]

    def plan(self) -> PrecisionPlan | None:
        """The plan that the recipe names.

        Raises:
            RecipeError: that file holds no plan.
        """
        name = self.precision.plan
        return read_plan(self.resolve(name)) if name else None

    def admit_code(self) -> None:
        """Let what the recipe names be found in modules that lie beside it.

        Raises:
            RecipeError: a pass of the user's own was edited since the recipe was read.
        """
        admit_modules_in(self.path.parent)
        if self.pass_code != pass_list.code_of_own(self.passes):
            raise RecipeError(
                "the code of its passes changed since this recipe was read",
                where=str(self.path),
                fix="read the recipe again",
                id="changed-meanwhile",
            )


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe, and that the files and targets which it names exist.

    Raises:
        RecipeError: the first thing that is wrong, where it stands, and how many more there are.
    """
    document = strict_yaml.read(path)
    recipe = parse_recipe(document, path)
    _check_files(recipe, document)
    _check_calibration(recipe, document)
    for index, name in enumerate(recipe.targets):
        _check_target(name, recipe.path.parent, document.where(("targets", index)))
    return recipe


def parse_recipe(document: strict_yaml.Document, path: Path) -> Recipe:
    """Check a recipe without looking at any file that it names.

    Raises:
        RecipeError: as `load_recipe`.
    """
    _check_schema(document)
    file = validated(TypeAdapter(_File), document.value, document, ())
    passes, code = pass_list.read(document, file.passes, path.parent)
    pass_list.check_order(document, passes, file.source.level)
    fields = {name: getattr(file, name) for name in _Head.model_fields}
    return Recipe.model_construct(
        **fields, passes=passes, pass_code=code, path=path, text=document.text
    )


def schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors; every pass with its options."""
    top = _File.model_json_schema()
    top["properties"]["passes"]["items"], definitions = pass_list.schema()
    top.setdefault("$defs", {}).update(definitions)
    for kind in (Adaround, CorrectBias):
        pass_list.describe(top["$defs"][kind.__name__], kind)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **top,
        "title": "rtc recipe",
        "description": "What rtc compiles, how, for which devices, and what must hold.",
    }


def _check_schema(document: strict_yaml.Document) -> None:
    value = document.value
    if not isinstance(value, dict):
        raise RecipeError(
            "not a recipe",
            where=document.where(()),
            seen="an empty file" if value is None else type(value).__name__,
            expected="a mapping that starts with recipe: 1",
            fix="rtc recipe new writes a starter",
        )
    seen = value.get("recipe")
    if isinstance(seen, int) and not isinstance(seen, bool) and seen > SCHEMA:
        raise RecipeError(
            "this recipe is newer than this rtc",
            where=document.where(("recipe",)),
            seen=f"schema {seen}",
            expected=f"schema {SCHEMA}",
            fix="upgrade rtc",
            id="newer-schema",
        )


_FILES = (("source", "onnx"), ("source", "weights"), ("data", "npz"), ("precision", "plan"))


def _check_files(recipe: Recipe, document: strict_yaml.Document) -> None:
    for section, key in _FILES:
        name = getattr(getattr(recipe, section), key)
        if name is None or recipe.resolve(name).is_file():
            continue
        exists = recipe.resolve(name).exists()
        raise RecipeError(
            f"{section}.{key} is {'not a file' if exists else 'not there'}",
            where=document.where((section, key)),
            seen=repr(name),
            expected=f"a file in {recipe.path.resolve().parent}",
            fix="np.savez writes it: x (samples) and y (class indices)" if key == "npz" else "",
            id="missing-file",
        )


def _check_calibration(recipe: Recipe, document: strict_yaml.Document) -> None:
    given = recipe.calibration
    if given is not None and not recipe.resolve(given.path).is_dir():
        raise RecipeError(
            "calibration.path is not a folder",
            where=document.where(("calibration", "path")),
            seen=repr(given.path),
            expected=f"a folder in {recipe.path.resolve().parent}",
            id="missing-file",
        )


def _check_target(name: str, beside: Path, where: str) -> None:
    from rtc.targets import loader

    try:
        loader.profile(name, beside)
    except RecipeError as error:
        error.where = error.where or where
        raise
