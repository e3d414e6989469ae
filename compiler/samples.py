"""The samples that a recipe names, divided as it says."""

from __future__ import annotations

from rtc.compiler.core.data import Dataset, Preprocess, Splits
from rtc.compiler.core.naming import load_object
from rtc.compiler.recipe import Recipe


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
        dataset: Dataset = load_object(data.dataset, where="data.dataset")(**data.options)
        return dataset
    assert data.classes is not None, "a recipe with an .npz file has classes"
    return npz_dataset(recipe.resolve(data.npz), data.classes, data.preprocess or Preprocess())
