"""Faults planted in ResNet-20 and MobileNetV2: each is named, and nothing else.

What "named exactly" means: a fault damages tensors, not layers, and a damaged tensor is ruined
wherever it is quantised: by the layer that makes it and by each that reads it in integers. So the
expected set of a fault is every maker and reader of every tensor that it damages, less those that
leave INT8 by themselves once the others have (an Add whose branch is float, a pool behind it). It
is the only smallest one, but for a damaged sum: a layer in a branch in place of the Add would free
it as well, and the Add itself is to be named.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import (
    Patient,
    broken_scale,
    dead_channel,
    healthy,
    images,
    lifted_branch,
    opposed_branches,
    outlier_channel,
)

from rtc.compiler.core.errors import DataError
from rtc.compiler.diagnose.culprits import culprits
from rtc.compiler.diagnose.metric import Metric
from rtc.compiler.diagnose.quantity import Quantity

AGREEMENT = Metric(Quantity.AGREEMENT, 0.95)

RESNET = [
    (outlier_channel, ("layer1.1.conv1", "layer1.1.conv2"), "layer1.1.conv1 layer1.1.conv2"),
    (outlier_channel, ("layer2.1.conv1", "layer2.1.conv2"), "layer2.1.conv1 layer2.1.conv2"),
    (outlier_channel, ("layer3.2.conv1", "layer3.2.conv2"), "layer3.2.conv1 layer3.2.conv2"),
    (dead_channel, ("layer1.2.conv1", "layer1.2.conv2", 1000), "layer1.2.conv1 layer1.2.conv2"),
    (dead_channel, ("layer2.2.conv1", "layer2.2.conv2", 1000), "layer2.2.conv1 layer2.2.conv2"),
    (dead_channel, ("layer3.0.conv1", "layer3.0.conv2", 1000), "layer3.0.conv1 layer3.0.conv2"),
    (broken_scale, ("act1", 1e-3), "conv1 layer1.0.conv1"),
    (broken_scale, ("layer2.2.act2", 1e3), "layer2.2.add layer3.0.conv1 layer3.0.shortcut.conv"),
    (lifted_branch, ("layer3.2.conv2", "fc"), "layer3.2.conv2 fc"),
    (
        opposed_branches,
        ("layer2.0.conv2", "layer2.0.shortcut.conv"),
        "layer2.0.conv2 layer2.0.shortcut.conv",
    ),
]
MOBILENET = [
    (
        outlier_channel,
        ("features.1.project", "features.2.expand.conv"),
        "features.1.project features.2.expand.conv",
    ),
    (
        outlier_channel,
        (
            "features.2.project features.3.project",
            "features.3.expand.conv features.4.expand.conv",
        ),
        "features.2.project features.3.expand.conv features.3.project features.4.expand.conv",
    ),
    (
        dead_channel,
        ("features.17.project", "features.18.conv", 1000),
        "features.17.project features.18.conv",
    ),
    (broken_scale, ("input", 1e3), "features.0.conv"),
    (
        broken_scale,
        ("features.8.expand.act", 1e-3),
        "features.8.expand.conv features.8.depthwise.conv",
    ),
    (
        broken_scale,
        ("features.12.depthwise.act", 1e3),
        "features.12.depthwise.conv features.12.project",
    ),
    (broken_scale, ("features.5.project", 1e3), "features.5.project"),
    (broken_scale, ("features.13.add", 1e-3), "features.13.add features.14.expand.conv"),
    (
        lifted_branch,
        ("features.6.project", "features.7.expand.conv"),
        "features.6.project features.7.expand.conv",
    ),
    (
        lifted_branch,
        ("features.10.project", "features.11.expand.conv"),
        "features.10.project features.11.expand.conv",
    ),
]


@pytest.fixture(scope="session")
def resnet() -> Patient:
    return healthy("rtc.recipes.models.resnet:resnet20", {"shortcut": "B"}, images())


@pytest.fixture(scope="session")
def mobilenet() -> Patient:
    options = {"size": 32, "width": 0.5}
    return healthy("rtc.recipes.models.mobilenet:mobilenet_v2", options, images())


def named(patient: Patient, folder: Path) -> list[str]:
    found = culprits(patient.session(folder), AGREEMENT, patient.data.test)
    assert found.before.value < 0.9, "the fault breaks INT8"
    assert found.after.value >= 0.95
    return [each.layer for each in found.layers]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "places", "expected"), RESNET)
def test_faults_in_resnet20(resnet, tmp_path, fault, places, expected) -> None:
    assert named(fault(resnet, *places), tmp_path) == expected.split()


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "places", "expected"), MOBILENET)
def test_faults_in_mobilenet_v2(mobilenet, tmp_path, fault, places, expected) -> None:
    assert named(fault(mobilenet, *places), tmp_path) == expected.split()


@pytest.mark.slow
def test_a_dead_channel_that_does_no_harm_is_not_named(resnet, tmp_path) -> None:
    patient = dead_channel(resnet, "layer2.1.conv1", "layer2.1.conv2")
    found = culprits(patient.session(tmp_path), AGREEMENT, patient.data.test)
    assert found.before.value >= 0.95
    assert (found.layers, found.tests, found.patch) == ((), 1, "")
    both = outlier_channel(patient, "layer3.1.conv1", "layer3.1.conv2")
    assert named(both, tmp_path) == ["layer3.1.conv1", "layer3.1.conv2"]


@pytest.mark.slow
def test_openvino_names_the_same(resnet, tmp_path) -> None:
    patient = outlier_channel(resnet, "layer1.1.conv1", "layer1.1.conv2")
    session = patient.session(tmp_path, "openvino")
    found = culprits(session, AGREEMENT, patient.data.test)
    assert [each.layer for each in found.layers] == ["layer1.1.conv1", "layer1.1.conv2"]
    assert found.candidate == "openvino int8 for cpu"


def test_no_samples(tmp_path) -> None:
    class Unasked:
        pass

    with pytest.raises(DataError, match="no samples"):
        culprits(Unasked(), AGREEMENT, images().test.head(0))
