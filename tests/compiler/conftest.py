"""The model of the recipes that are compiled here, and a recipe of it with keys changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from compiled_recipes import RECIPE
from digits_net import digits, digits_net


@pytest.fixture(scope="session")
def model() -> bytes:
    return digits_net(digits().train)


@pytest.fixture
def recipe(tmp_path: Path, model: bytes) -> Callable[..., Path]:
    """Writes the recipe beside its model, with keys changed."""
    (tmp_path / "digits.onnx").write_bytes(model)

    def write(**changes: object) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(RECIPE), **changes}))
        return path

    return write
