"""The samples that a recipe names, divided as it says."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rtc.compiler.core.data import Dataset, Preprocess, Split, Splits
from rtc.compiler.core.errors import DataError, RecipeError
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.naming import call_object, load_object
from rtc.compiler.frontend.remembered import RememberedSplits, remembered
from rtc.compiler.recipe.own_code import code_of
from rtc.compiler.recipe.schema import Recipe
from rtc.compiler.storage.store import Store

_SAMPLES = "rtc.calibration.data"  # whose digest of samples is remembered
_ANY = frozenset({inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})


def splits_of(recipe: Recipe, store: Store | None = None) -> Splits:
    """The three splits, calibration from its folder where the recipe names one.

    Nothing is read before it is asked for, and for its digest only where the `store` knows of no
    earlier reading.

    Raises:
        RecipeError: the data set's function cannot be found or does not take the options.
        DataError: the file is not one that samples can be read from.
    """
    from rtc.calibration.data import load_splits

    split, dataset = recipe.data.split, dataset_of(recipe)
    fractions = (split.train, split.calibration, split.test)
    preprocess = recipe.data.preprocess or dataset.preprocess
    splits = load_splits(dataset, fractions, recipe.seed, preprocess)
    if store is not None and dataset.files:
        what = [code_of([_SAMPLES]), fractions, recipe.seed, asdict(preprocess), dataset.classes]
        splits = RememberedSplits(splits, store, dataset.files, what)
    if recipe.calibration is None:
        return splits
    return _CalibratedElsewhere(splits, recipe, preprocess, store)


def calibration_digest(recipe: Recipe, store: Store | None) -> str:
    """Of the folder that a recipe names for calibration, as a `store` may remember it.

    Raises:
        DataError: there are no samples in it.
    """
    from rtc.calibration.folder import folder_digest, sample_files

    folder = _folder(recipe)
    what = ["folder", str(folder.absolute())]
    return remembered(store, sample_files(folder), what, lambda: folder_digest(folder))


def _folder(recipe: Recipe) -> Path:
    assert recipe.calibration is not None, "the recipe names a folder"
    return recipe.resolve(recipe.calibration.path)


def labelled(data: Splits) -> Splits:
    """The splits of the data set itself, for training: samples in a folder have no labels."""
    return data.data if isinstance(data, _CalibratedElsewhere) else data


@dataclass(frozen=True)
class _CalibratedElsewhere:
    """Splits whose calibration samples come from a folder; of another shape they are an error."""

    data: Splits
    recipe: Recipe
    preprocess: Preprocess
    store: Store | None

    @property
    def classes(self) -> int:
        return self.data.classes

    @cached_property
    def digest(self) -> str:
        calibration = calibration_digest(self.recipe, self.store)
        return digest({"data": self.data.digest, "calibration": calibration})

    @property
    def train(self) -> Split:
        return self.data.train

    @property
    def test(self) -> Split:
        return self.data.test

    @cached_property
    def calibration(self) -> Split:
        from rtc.calibration.folder import folder_split

        folder = _folder(self.recipe)
        from_folder = folder_split(folder, self.preprocess)
        seen, wanted = (split.inputs(0, 1).shape[1:] for split in (from_folder, self.data.test))
        if seen != wanted:
            raise DataError(
                "the calibration samples differ in shape from the data's",
                where=str(folder),
                seen=" × ".join(map(str, seen)),
                expected=" × ".join(map(str, wanted)),
                fix="crop or scale them as the model's own samples were",
                id="sample-shape",
            )
        return from_folder


def dataset_of(recipe: Recipe) -> Dataset:
    """The data set that a recipe names, whole."""
    from rtc.calibration.data import npz_dataset
    from rtc.calibration.given import as_dataset

    data = recipe.data
    if data.npz is None:
        assert data.dataset is not None, "a recipe has a data set or an .npz file"
        return as_dataset(_called(data.dataset, data.options), data.dataset)
    assert data.classes is not None, "a recipe with an .npz file has classes"
    return npz_dataset(recipe.resolve(data.npz), data.classes, data.preprocess or Preprocess())


def _called(reference: str, options: Mapping[str, Any]) -> Any:
    """What a data set's function gives; that it fails is a fault of the data, not of the recipe.

    Raises:
        DataError: it fails, or wants arguments that the recipe's options do not have.
    """
    function = load_object(reference, where="data.dataset")
    known = inspect.signature(function).parameters.values() if callable(function) else ()
    wanted = [p.name for p in known if p.default is p.empty and p.kind not in _ANY]
    missing = [name for name in wanted if name not in options]
    if missing:
        raise DataError(
            "the data set's function wants arguments that the recipe does not give",
            where=reference,
            seen=", ".join(missing),
            expected=f"data.options: {{{missing[0]}: …}}, or a default in the function",
            id="missing-options",
        )
    try:
        return call_object(reference, options, where="data.dataset")
    except RecipeError as error:
        if error.id != "user-code":
            raise
        raise DataError(
            "the data set's function failed",
            where=reference,
            seen=error.seen,
            fix=error.fix,
            id=error.id,
        ) from error
