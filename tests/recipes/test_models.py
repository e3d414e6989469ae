from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from check_pass import check_pass, context_for
from torch import nn

from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import MachineError, RecipeError
from rtc.compiler.core.naming import load_object
from rtc.compiler.core.unit import Unit
from rtc.compiler.measure import parity
from rtc.passes.graph.fold_batchnorm import FoldBatchnorm
from rtc.passes.torch.export_onnx import ExportOnnx
from rtc.passes.torch.torch_module import build, source_unit
from rtc.recipes.models import mobilenet, resnet
from rtc.recipes.models.lenet import lenet

MODELS = "rtc.recipes.models."


def unit_of(factory: str, options: dict[str, Any], size: int) -> Unit:
    pixels = np.zeros((1, 3, size, size), np.float32)
    return source_unit(MODELS + factory, options, b"", Split("one", pixels, None, Preprocess()), 0)


def nodes(unit: Unit) -> dict[str, str]:
    """Operator by node name."""
    graph = onnx.load_model_from_string(unit.onnx.proto).graph
    found = {node.name: node.op_type for node in graph.node}
    assert len(found) == len(graph.node), "names are unique"
    return found


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ("factory", "options", "published"),
    [
        ("resnet:resnet20", {}, 269_722),
        ("resnet:resnet32", {}, 464_154),
        ("resnet:resnet56", {}, 853_018),
        ("mobilenet:mobilenet_v1", {}, 4_231_976),
        ("mobilenet:mobilenet_v1", {"width": 0.5}, 1_331_592),
        ("mobilenet:mobilenet_v2", {}, 3_504_872),
        ("mobilenet:mobilenet_v2", {"width": 0.5}, 1_968_680),
        ("idsia:idsia", {}, 1_510_863),
        ("lenet:lenet", {}, 62_006),
        ("torchvision:model", {"name": "resnet50"}, 25_557_032),
    ],
)
def test_parameters_are_as_many_as_published(
    factory: str, options: dict[str, Any], published: int
) -> None:
    with torch.device("meta"):  # counted, not drawn
        module = load_object(MODELS + factory, where="test")(**options)
    assert parameters(module) == published


def test_mobilenet_v2_computes_what_torchvisions_does() -> None:
    from torchvision.models import mobilenet_v2

    theirs = mobilenet_v2(weights=None, width_mult=0.35, num_classes=7).eval()
    ours = mobilenet.mobilenet_v2(width=0.35, classes=7).eval()
    state = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict(dict(state))
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


def test_small_inputs_keep_a_map_that_says_something() -> None:
    for network in (mobilenet.mobilenet_v1, mobilenet.mobilenet_v2):
        for size, last in ((32, 2), (64, 4), (224, 7)):
            module = network(classes=2, width=0.25, size=size).eval()
            features = module.get_submodule("features")
            assert features(torch.zeros(1, 3, size, size)).shape[2:] == (last, last)


def test_shortcut_a_takes_every_other_pixel_and_pads_with_zeros() -> None:
    x = torch.randn(2, 16, 8, 8)
    y = resnet.Subsample(16, 32)(x)
    torch.testing.assert_close(y[:, :16], x[:, :, ::2, ::2])
    assert y.shape == (2, 32, 4, 4)
    assert not y[:, 16:].any()


def test_weights_are_drawn_as_by_he() -> None:
    torch.manual_seed(0)
    weight = resnet.resnet20().get_submodule("layer3.1.conv1").weight
    assert isinstance(weight, torch.Tensor)
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)


def test_lenets_layers() -> None:
    names = " ".join(name for name, _ in lenet().named_children())
    assert names == "conv1 act1 pool1 conv2 act2 pool2 flatten fc1 act3 fc2 act4 fc3"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "options", "size", "operators"),
    [
        ("resnet:resnet20", {}, 32, {"Conv": 19, "Relu": 19, "Add": 9, "MaxPool": 2, "Pad": 2}),
        ("resnet:resnet32", {}, 32, {"Conv": 31, "Relu": 31, "Add": 15, "MaxPool": 2, "Pad": 2}),
        ("resnet:resnet56", {}, 32, {"Conv": 55, "Relu": 55, "Add": 27, "MaxPool": 2, "Pad": 2}),
        ("resnet:resnet20", {"shortcut": "B"}, 32, {"Conv": 21, "Relu": 19, "Add": 9}),
        ("mobilenet:mobilenet_v1", {"width": 0.25, "size": 32}, 32, {"Conv": 27, "Clip": 27}),
        ("mobilenet:mobilenet_v2", {"width": 0.5, "size": 32}, 32, {"Conv": 52, "Add": 10}),
        ("mobilenet:mobilenet_v1", {}, 224, {"Conv": 27, "Clip": 27, "Gemm": 1}),
        ("mobilenet:mobilenet_v2", {}, 224, {"Conv": 52, "Clip": 35, "Add": 10, "Gemm": 1}),
        ("idsia:idsia", {"size": 32}, 32, {"Conv": 3, "Relu": 4, "MaxPool": 3, "Gemm": 2}),
        ("torchvision:model", {"name": "resnet18"}, 32, {"Conv": 20, "Relu": 17, "Add": 8}),
    ],
)
def test_export_gives_every_node_its_name_and_leaves_no_normalisation(
    factory: str, options: dict[str, Any], size: int, operators: dict[str, int]
) -> None:
    unit = unit_of(factory, options, size)
    ctx = context_for(unit, 4)
    exported = ExportOnnx().apply(unit, ctx).unit
    row = parity.check(unit, exported, ExportOnnx().bound, ctx.data.test, stage="", samples=4)
    assert row.passed, f"{row.bound}: {row.measured}"
    found = nodes(FoldBatchnorm().apply(exported, ctx).unit)
    assert operators.items() <= Counter(found.values()).items()
    assert "BatchNormalization" not in found.values()
    modules = dict(build(unit.torch).named_modules())
    for name, operator in found.items():
        if operator in {"Conv", "Gemm", "Relu", "Clip", "Add"}:
            assert name.split("/")[0] in modules, f"{operator} {name} is called after its module"


def test_a_policy_can_address_the_sums() -> None:
    unit = unit_of("resnet:resnet20", {}, 32)
    found = nodes(check_pass(ExportOnnx(), unit, idempotent=False, samples=4).unit)
    sums = [name for name, operator in found.items() if operator == "Add"]
    assert sums == [f"layer{stage}.{block}.add" for stage in (1, 2, 3) for block in (0, 1, 2)]


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("resnet:resnet20", {"shortcut": "C"}, "no such shortcut .seen 'C'"),
        ("resnet:resnet20", {"classes": 0}, "classes is too small"),
        ("mobilenet:mobilenet_v2", {"width": 0.0}, "width is too small"),
        ("mobilenet:mobilenet_v1", {"size": 16}, "size is too small"),
        ("idsia:idsia", {"size": 16}, "size is too small"),
        ("lenet:lenet", {"classes": 0}, "classes is too small"),
        ("torchvision:model", {"name": "resnet5"}, 'no such network.*did you mean "resnet50"'),
    ],
)
def test_options_that_no_network_has(factory: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_object(MODELS + factory, where="test")(**options)


def test_without_torchvision_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MachineError) as missing:
        load_object(MODELS + "torchvision:model", where="test")(name="resnet18")
    assert missing.value.fix == "pip install 'rtc-compiler[vision]'"
