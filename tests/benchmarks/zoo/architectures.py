"""Architectures with random weights that behave like trained ones where a compiler looks.

BatchNorm statistics are settled on the samples (a network that has never seen data explodes or
dies), and the logits are centred and scaled, class by class, so that classes share the samples:
agreement with the float model then says something. Ten classes; inputs are drawn road signs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rtc.recipes.datasets.signs43 import PREPROCESS, signs43

CLASSES = 10
_SETTLING = 4  # batches
_BATCH = 32
_ALIVE = 0.01  # of the largest class's spread: one that a ReLU has ended is not blown up

Images = npt.NDArray[np.float32]  # (N, 3, size, size)


@dataclass(frozen=True)
class Architecture:
    """A network of a library; `size` is the height and width of its input, in pixels."""

    name: str
    library: Literal["torchvision", "timm"]
    kind: Literal["convolutional", "mobile", "transformer", "hybrid"]
    size: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)


def _all() -> tuple[Architecture, ...]:
    def of(
        library: Literal["torchvision", "timm"],
        kind: Literal["convolutional", "mobile", "transformer", "hybrid"],
        size: int,
        *names: str,
        **options: Any,
    ) -> list[Architecture]:
        return [Architecture(name, library, kind, size, options) for name in names]

    # fmt: off
    return (
        *of("torchvision", "convolutional", 64, "resnet18", "resnet50", "resnext50_32x4d",
            "squeezenet1_1", "densenet121", "convnext_tiny", "regnet_y_400mf"),
        *of("torchvision", "convolutional", 96, "googlenet", "inception_v3",
            aux_logits=False, init_weights=False),
        *of("torchvision", "mobile", 64, "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5",
            "mnasnet0_5", "efficientnet_b0"),
        *of("timm", "convolutional", 64, "repvgg_a0", "convnext_atto", "convnextv2_atto",
            "skresnet18", "resnest14d", "hgnetv2_b0", "dla46_c", "nf_resnet26"),
        *of("timm", "mobile", 64, "tf_efficientnet_lite0", "tf_mobilenetv3_small_075",
            "mobilenetv4_conv_small", "semnasnet_075", "lcnet_050", "tinynet_e", "rexnet_100",
            "mobileone_s0"),
        *of("timm", "transformer", 64, "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224",
            "xcit_nano_12_p16_224", "cait_xxs24_224", "pit_ti_224", "twins_svt_small", "nest_tiny",
            "mvitv2_tiny", "mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224", img_size=64),
        *of("timm", "transformer", 56, "swin_tiny_patch4_window7_224", img_size=56),
        *of("timm", "hybrid", 64, "mobilevit_xxs", "mobilevitv2_050", "edgenext_xx_small",
            "poolformer_s12", "efficientvit_b0", "fastvit_t8"),
        *of("timm", "hybrid", 64, "levit_128s", "coatnet_nano_rw_224", "maxvit_pico_rw_256",
            "visformer_tiny", img_size=64),
    )
    # fmt: on


ARCHITECTURES = {each.name: each for each in _all()}


def images(size: int, count: int) -> Images:
    """Drawn road signs, normalised."""
    raw, _ = signs43(samples=count, size=min(size, 256)).load()
    scaled = raw.astype(np.float32) * np.float32(PREPROCESS.scale)
    normal = (scaled - np.float32(PREPROCESS.mean)) / np.float32(PREPROCESS.std)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2), np.float32)


def built(of: Architecture, samples: Images) -> Any:
    """The network in eval mode, settled on `samples`."""
    import torch

    torch.manual_seed(0)
    module = _created(of)
    data = torch.from_numpy(samples[: _SETTLING * _BATCH])
    _settle(module, data)
    _share_out(module, data)
    return module


def _created(of: Architecture) -> Any:
    if of.library == "timm":
        import timm

        return timm.create_model(of.name, pretrained=False, num_classes=CLASSES, **of.options)
    import torchvision

    options = {"num_classes": CLASSES, **of.options}
    return torchvision.models.get_model(of.name, weights=None, **options)


def _settle(module: Any, data: Any) -> None:
    """The statistics of the samples for every BatchNorm; dropped paths and units stay."""
    import torch

    norms = torch.nn.modules.batchnorm._BatchNorm
    module.eval()
    for each in module.modules():
        if isinstance(each, norms) and each.track_running_stats:
            each.reset_running_stats()
            each.momentum = None  # the mean over all batches
            each.train()
    with torch.no_grad():
        for batch in data.split(_BATCH):
            module(batch)
    module.eval()


def _share_out(module: Any, data: Any) -> None:
    """Centre and scale the logits in the layers that make them: each class has its share."""
    import torch

    heads = [each for each in module.modules() if _makes_logits(each)]
    with torch.no_grad():
        for head in heads:
            if not head.weight.any():  # as MLP mixers begin
                torch.nn.init.xavier_normal_(head.weight)
        logits = torch.cat([module(batch) for batch in data.split(_BATCH)])
        mean, std = logits.mean(0), logits.std(0)
        std = torch.where(std > _ALIVE * std.max(), std, std.max())
        for head in heads:
            head.weight /= std.reshape(-1, *(1 for _ in head.weight.shape[1:]))
            if head.bias is None:
                head.bias = torch.nn.Parameter(torch.zeros(CLASSES))
            head.bias.copy_((head.bias - mean) / std)


def _makes_logits(module: Any) -> bool:
    import torch

    width = getattr(module, "out_features", getattr(module, "out_channels", None))
    return width == CLASSES and isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
