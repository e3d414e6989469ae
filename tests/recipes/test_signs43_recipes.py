from __future__ import annotations

from pathlib import Path

import pytest

from rtc import recipes
from rtc.compiler.core.naming import load_object
from rtc.compiler.frontend.samples import dataset_of
from rtc.compiler.recipe.schema import load_recipe

NAMES = [f"{model}-signs43" for model in ("resnet20", "resnet56", "mobilenetv1", "mobilenetv2")]


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_trains_on_drawn_signs_for_both_targets(name: str) -> None:
    recipe = load_recipe(Path(recipes.__path__[0]) / f"{name}.yaml")
    assert [step.name for step in recipe.passes][:2] == ["train", "export-onnx"]
    assert recipe.targets == ("cpu", "rtx4060ti")
    dataset = dataset_of(recipe)
    module = load_object(recipe.source.factory or "", where=name)(**recipe.source.options)
    assert module.get_submodule("fc").out_features == dataset.classes == 43
