"""What can be found wrong with a recipe without any work: nothing of the user's is run for it.

A pass of the user's own is imported, as its class tells its options. Other modules are looked for
and read as text, weights and samples are looked at by their headers, and only an ONNX file is read
whole, in a child process.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from rtc.calibration.data import check_preprocess, npz_headers
from rtc.compiler.core.data import Preprocess, Split, Splits
from rtc.compiler.core.errors import DataError, ModelError, RecipeError, RtcError
from rtc.compiler.core.naming import nearest
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.unit import Level, Unit
from rtc.compiler.documents import strict_yaml
from rtc.compiler.frontend.float_model import check_samples, observing
from rtc.compiler.frontend.source import onnx_unit
from rtc.compiler.recipe.pass_list import own_references
from rtc.compiler.recipe.schema import Recipe
from rtc.compiler.recipe.source_code import missing_parts


def faults(recipe: Recipe) -> list[RtcError]:
    """Everything that is wrong with a recipe whose text was read, as far as headers tell."""
    recipe.admit_code()
    errors = list(_references(recipe))
    errors += _caught(recipe.observer_classes, RtcError)
    errors += _caught(lambda: _weights(recipe), RtcError)
    model: list[Unit] = []
    if recipe.source.onnx is not None and recipe.resolve(recipe.source.onnx).is_file():
        errors += _caught(lambda: model.append(_model(recipe)), RtcError)
    errors += _caught(lambda: _samples(recipe, model[0] if model else None), RtcError)
    if model:
        errors += _layers(recipe, model[0])
    return errors


def _caught(look: Callable[[], object], kind: type[RtcError]) -> Iterator[RtcError]:
    try:
        look()
    except kind as error:
        yield error


def _references(recipe: Recipe) -> Iterator[RtcError]:
    """Objects that the recipe names and that are not there, or cannot be imported."""
    document = strict_yaml.parse(recipe.text.encode(), str(recipe.path))
    places = (("source", "factory"), ("data", "dataset"), ("passes",))
    for place, value in _texts(document.value, ()):
        if not any(place[: len(each)] == each for each in places):
            continue  # what looks like a reference among a factory's options need not be one
        for what, fix in missing_parts(value):
            yield RecipeError(what, where=document.where(place), fix=fix, id="missing-object")


def _texts(value: Any, place: strict_yaml.Place) -> Iterator[tuple[strict_yaml.Place, str]]:
    """Every text of a document, with its place."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _texts(each, (*place, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _texts(each, (*place, index))
    elif isinstance(value, str):
        yield place, value


def _weights(recipe: Recipe) -> None:
    """By its header: no pickle, and whole."""
    from rtc.passes.torch.torch_module import refuse_pickle

    name = recipe.source.weights
    if name is None or not recipe.resolve(name).is_file():
        return
    path = recipe.resolve(name)
    with path.open("rb") as stream:
        refuse_pickle(stream.read(8), path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as cause:
        raise ModelError(
            "not a safetensors file, or a truncated one",
            where=str(path),
            seen=str(cause),
            id="unreadable-weights",
        ) from cause


def _model(recipe: Recipe) -> Unit:
    from rtc.passes.torch.torch_module import refuse_pickle

    assert recipe.source.onnx is not None, "it was looked for"
    path = recipe.resolve(recipe.source.onnx)
    with path.open("rb") as stream:
        refuse_pickle(
            stream.read(8), path, wanted="an ONNX file", fix="torch.onnx.export writes one"
        )
    return onnx_unit(path)


def _samples(recipe: Recipe, model: Unit | None) -> None:
    """An .npz file's arrays, by their headers, against the model and the classes."""
    data = recipe.data
    if data.npz is None or not recipe.resolve(data.npz).is_file():
        return
    path = recipe.resolve(data.npz)
    (shape, dtype), (labels, _) = npz_headers(path)
    preprocess = data.preprocess or Preprocess()
    if dtype.kind not in "buif" or len(shape) < 2 or not shape[0]:
        raise DataError("not samples", where=str(path), seen=f"x of {dtype}, shape {shape}")
    if labels[:1] != shape[:1]:
        raise DataError(
            "samples and labels differ in number",
            where=str(path),
            seen=f"{shape[0]} samples, labels of shape {labels}",
            id="labels",
        )
    sample = np.zeros((1, *shape[1:]), dtype)
    check_preprocess(str(path), preprocess, sample)
    if model is not None:
        split = Split("test", sample, np.zeros(1, np.int64), preprocess)
        check_samples(model, cast(Splits, _OneSample(split)), data.classes or 2)


@dataclass(frozen=True)
class _OneSample:
    """All that a check of shapes asks of splits."""

    test: Split


def _layers(recipe: Recipe, model: Unit) -> list[RtcError]:
    """Layers that the recipe names and the float model does not have."""
    from rtc.passes.quantise.precision_policy import computes
    from rtc.passes.support.onnx_graph import read
    from rtc.passes.support.residuals import residuals

    options, plan = recipe.precision, _plan(recipe)
    if not (options.pin or options.observers or options.residuals or plan):
        return []
    unit = _floated(recipe, model)
    if unit is None:
        return []
    graph = read(unit)
    layers = [node.name for node in graph.nodes if computes(node)]
    adds = [add.name for add in residuals(graph)]
    named = [
        *((name, layers, "precision.pin") for name in options.pin),
        *((name, adds, "precision.residuals") for name in options.residuals),
        *((name, layers, "precision.plan") for name in (plan.layers if plan else ())),
        *((name, adds, "precision.plan") for name in (plan.residuals if plan else ())),
    ]
    errors: list[RtcError] = [
        RecipeError(
            "this names a layer that the model does not have",
            where=f"{recipe.path}: {where}",
            seen=repr(name),
            fix=nearest(name, known),
            id="unknown-layer",
        )
        for name, known, where in named
        if name not in known and not fnmatch.filter(known, name)
    ]
    return [*errors, *_caught(lambda: observing(recipe).needs(unit), RecipeError)]


def _plan(recipe: Recipe) -> Any:
    """The plan that the recipe names; None where there is none, or no file of it."""
    name = recipe.precision.plan
    return recipe.plan() if name and recipe.resolve(name).is_file() else None


def _floated(recipe: Recipe, model: Unit) -> Unit | None:
    """The float model, whose layers have the names; None where samples are needed to tell it.

    They are where a pass wants them, and where branches are settled on them. None as well where a
    pass is the user's own: it would have to run.
    """
    from rtc.passes.support.onnx_graph import read

    if own_references(recipe.passes):
        return None

    unit, context = model, PassContext(cast(Splits, None), recipe.seed)
    try:
        read(unit)
        for step in recipe.passes:
            if unit.level is Level.ONNX:
                unit = step.apply(unit, context).unit
    except Exception:  # noqa: BLE001 - without samples a pass may fail in any way
        return None
    return unit
