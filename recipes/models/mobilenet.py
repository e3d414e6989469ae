"""MobileNets: V1 (Howard et al., arXiv:1704.04861) and V2 (Sandler et al., arXiv:1801.04381).

Published for 224×224, where the last map is 7×7. For small images (`size` up to 64) the first layer
does not stride, so that 32×32 still ends in a map of 2×2. Activations are ReLU6 in both,
as in the released models. Weights are drawn as in He et al., arXiv:1502.01852.

Input float32 (N, 3, size, size), output logits (N, classes).
"""

from __future__ import annotations

from torch import Tensor, nn

from rtc.recipes.models.parts import Add, at_least, he_normal

_SMALL = 64
"""Largest input, in pixels, whose first layer does not stride."""

_V1 = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Output channels and stride of each depthwise-separable layer: table 1 of the paper."""

_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, repeats and first stride of each stage: table 2 of the paper."""


def mobilenet_v1(*, classes: int = 1000, width: float = 1.0, size: int = 224) -> nn.Module:
    """13 depthwise-separable layers; 4,231,976 parameters at width 1.

    Raises:
        RecipeError: no class, a width that is not positive, or an input below 32 pixels.
    """
    _check(classes, width, size)
    inputs = _scaled(32, width)
    layers: list[nn.Module] = [ConvUnit(3, inputs, 3, _first_stride(size))]
    for channels, stride in _V1:
        outputs = _scaled(channels, width)
        layers.append(Separable(inputs, outputs, stride))
        inputs = outputs
    return he_normal(MobileNet(layers, inputs, classes))


def mobilenet_v2(*, classes: int = 1000, width: float = 1.0, size: int = 224) -> nn.Module:
    """17 inverted residuals; 3,504,872 parameters at width 1.

    Raises:
        RecipeError: no class, a width that is not positive, or an input below 32 pixels.
    """
    _check(classes, width, size)
    inputs, last = _scaled(32, width), _scaled(1280, max(width, 1.0))
    layers: list[nn.Module] = [ConvUnit(3, inputs, 3, _first_stride(size))]
    for expansion, channels, repeats, first in _V2:
        outputs = _scaled(channels, width)
        for stride in (first, *(1,) * (repeats - 1)):
            layers.append(InvertedResidual(inputs, outputs, stride, expansion))
            inputs = outputs
    return he_normal(MobileNet([*layers, ConvUnit(inputs, last, 1)], last, classes))


class MobileNet(nn.Module):
    """Layers, global average pooling, one fully connected layer."""

    def __init__(self, layers: list[nn.Module], channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.flatten(self.pool(self.features(x))))
        return logits


class ConvUnit(nn.Sequential):
    """Convolution, batch normalisation, ReLU6; `depthwise`: one filter a channel."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, depthwise: bool = False
    ) -> None:
        super().__init__()
        groups = inputs if depthwise else 1
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU6()


class Separable(nn.Sequential):
    """V1's layer: a depthwise 3×3 convolution, then a 1×1 convolution across channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvUnit(inputs, inputs, 3, stride, depthwise=True)
        self.pointwise = ConvUnit(inputs, outputs, 1)


class InvertedResidual(nn.Module):
    """V2's layer: expand, depthwise 3×3, project; a sum where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvUnit(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvUnit(hidden, hidden, 3, stride, depthwise=True)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.add = Add() if stride == 1 and inputs == outputs else None

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.bn(self.project(self.depthwise(self.expand(x))))
        return branch if self.add is None else self.add(branch, x)


def _check(classes: int, width: float, size: int) -> None:
    at_least("classes", classes, 1)
    at_least("width", width, 0.01)
    at_least("size", size, 32)


def _first_stride(size: int) -> int:
    return 1 if size <= _SMALL else 2


def _scaled(channels: int, width: float) -> int:
    """`channels * width`, to the nearest multiple of 8, never below 90 % of it.

    As in the released code of V2; the published widths of V1 are multiples of 8 as they are.
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8
