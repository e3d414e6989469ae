"""Residual networks for small images: 6n+2 layers in three stages of 16, 32 and 64 channels.

He et al., "Deep residual learning for image recognition", arXiv:1512.03385, section 4.2. Where the
map halves and the channels double, the paper's shortcut "A" takes every other pixel and pads the
channels with zeros (no parameters; its choice for CIFAR-10, and the default here); "B" projects by
a 1×1 convolution with batch normalisation.

Input float32 (N, channels, H, W), H and W divisible by 4; output logits (N, classes).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import nearest
from rtc.recipes.models.parts import Add, at_least, he_normal

Shortcut = Literal["A", "B"]

_WIDTHS = (16, 32, 64)


def resnet20(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "A") -> nn.Module:
    """ResNet-20, n = 3: 269,722 parameters with shortcut A."""
    return ResNet(3, classes, channels, shortcut)


def resnet32(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "A") -> nn.Module:
    """ResNet-32, n = 5: 464,154 parameters with shortcut A."""
    return ResNet(5, classes, channels, shortcut)


def resnet56(*, classes: int = 10, channels: int = 3, shortcut: Shortcut = "A") -> nn.Module:
    """ResNet-56, n = 9: 853,018 parameters with shortcut A."""
    return ResNet(9, classes, channels, shortcut)


class ResNet(nn.Module):
    """`blocks` residual blocks in each of three stages.

    Raises:
        RecipeError: fewer than 1 block, class or channel, or another shortcut than A and B.
    """

    def __init__(self, blocks: int, classes: int, channels: int, shortcut: str) -> None:
        super().__init__()
        for option, value in (("blocks", blocks), ("classes", classes), ("channels", channels)):
            at_least(option, value, 1)
        if shortcut not in ("A", "B"):
            raise RecipeError("no such shortcut", seen=repr(shortcut), fix=nearest(shortcut, "AB"))
        self.conv1 = nn.Conv2d(channels, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.act1 = nn.ReLU()
        self.layer1 = _stage(_WIDTHS[0], _WIDTHS[0], blocks, shortcut)
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], blocks, shortcut)
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], blocks, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(_WIDTHS[2], classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


class Block(nn.Module):
    """act2(add(bn2(conv2(act1(bn1(conv1(x))))), shortcut(x)))."""

    def __init__(self, inputs: int, outputs: int, shortcut: str) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else _SHORTCUTS[shortcut](inputs, outputs)
        self.add = Add()
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        y: Tensor = self.act2(self.add(branch, self.shortcut(x)))
        return y


class Subsample(nn.Sequential):
    """Shortcut A: every other pixel, and zeros for the channels that are new."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # A maximum over one pixel: one operator that every runtime has, also in INT8.
        self.pick = nn.MaxPool2d(1, stride=2)
        self.pad = nn.ZeroPad3d((0, 0, 0, 0, 0, outputs - inputs))  # the third axis from the end


class Project(nn.Sequential):
    """Shortcut B: a 1×1 convolution with batch normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)


_SHORTCUTS = {"A": Subsample, "B": Project}


def _stage(inputs: int, outputs: int, blocks: int, shortcut: str) -> nn.Sequential:
    """Blocks of one width; the first of them changes it."""
    widths = [inputs] + [outputs] * (blocks - 1)
    return nn.Sequential(*(Block(width, outputs, shortcut) for width in widths))
