from __future__ import annotations

import pytest
import torch
from torch import nn

from rtc.compiler.core.errors import RecipeError
from rtc.recipes.models.lenet5 import student, teacher


def layers(module: nn.Module) -> str:
    return " ".join(name for name, _ in module.named_children())


def test_the_teacher_is_lenet5_with_gelu_and_average_pooling() -> None:
    module = teacher()
    assert sum(weight.numel() for weight in module.parameters()) == 61_706
    assert layers(module) == "conv1 act1 pool1 conv2 act2 pool2 flatten fc1 act3 fc2 act4 fc3"
    shapes = [tuple(module.get_submodule(f"fc{n}").weight.shape) for n in (1, 2, 3)]
    assert shapes == [(120, 400), (84, 120), (10, 84)]
    assert {type(module.get_submodule(f"act{n}")) for n in (1, 2, 3, 4)} == {nn.GELU}
    assert isinstance(module.get_submodule("pool1"), nn.AvgPool2d)
    assert module(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_student_is_leaner() -> None:
    module = student()
    assert sum(weight.numel() for weight in module.parameters()) == 11_246
    assert layers(module) == "conv1 act1 pool1 conv2 act2 pool2 flatten fc1 act3 fc2"
    shapes = [tuple(module.get_submodule(f"fc{n}").weight.shape) for n in (1, 2)]
    assert shapes == [(50, 200), (10, 50)]
    assert module(torch.zeros(2, 1, 28, 28)).dtype == torch.float32


def test_activation_and_pooling_are_options() -> None:
    module = student(activation="relu", pooling="max")
    kinds = {type(part) for part in module.children()}
    assert {nn.ReLU, nn.MaxPool2d} <= kinds
    assert not {nn.GELU, nn.AvgPool2d} & kinds
    with pytest.raises(RecipeError, match="no such pooling"):
        teacher(pooling="median")
