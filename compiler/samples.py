"""The samples that a recipe names, divided as it says."""

from __future__ import annotations

from dataclasses import replace

from rtc.compiler.core.data import Dataset, Preprocess, Splits
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.naming import call_object
from rtc.compiler.recipe import Recipe
from rtc.compiler.stages import referenced_code


def splits_of(recipe: Recipe) -> Splits:
    """The three splits; nothing is read before one is asked for.

    Raises:
        RecipeError: the data set's function cannot be found or does not take the options.
        DataError: the file is not one that samples can be read from.
    """
    from rtc.calibration.data import load_splits

    split = recipe.data.split
    fractions = (split.train, split.calibration, split.test)
    return load_splits(dataset_of(recipe), fractions, recipe.seed, recipe.data.preprocess)


def dataset_of(recipe: Recipe) -> Dataset:
    """The data set that a recipe names, whole."""
    from rtc.calibration.data import npz_dataset

    data = recipe.data
    if data.npz is None:
        assert data.dataset is not None, "a recipe has a data set or an .npz file"
        made: Dataset = call_object(data.dataset, data.options, where="data.dataset")
        # Not every data set's own digest can be trusted to tell of its code and options.
        parts = [made.digest, data.dataset, data.options, referenced_code(data.dataset)]
        return replace(made, digest=digest(parts))
    assert data.classes is not None, "a recipe with an .npz file has classes"
    return npz_dataset(recipe.resolve(data.npz), data.classes, data.preprocess or Preprocess())
