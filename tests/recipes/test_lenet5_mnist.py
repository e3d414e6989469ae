from __future__ import annotations

from pathlib import Path

from rtc import recipes
from rtc.compiler.recipe.schema import load_recipe

RECIPE = Path(recipes.__path__[0]) / "lenet5-mnist.yaml"


def test_the_recipe_runs_every_stage_and_leaves_the_student_its_gelu() -> None:
    recipe = load_recipe(RECIPE)
    assert [step.name for step in recipe.passes] == [
        "train",
        "distill",
        "simplify-activations",
        "export-onnx",
        "eliminate-identity",
        "fold-constants",
        "fold-batchnorm",
        "eliminate-dead-code",
    ]
    distill = recipe.passes[1].options()
    assert distill["student_options"] == {}  # the factory's default activation is GELU
    assert distill["keep"] == "best"
    assert recipe.targets == ("cpu", "rtx4060ti")
