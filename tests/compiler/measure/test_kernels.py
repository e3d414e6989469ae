"""Kernel times of real engines."""

from __future__ import annotations

import pytest
from digits_net import digits, digits_net

from rtc.compiler.core.target import BuildRequest, Built
from rtc.compiler.measure.kernels import KernelTimes, as_measured, estimated
from rtc.targets.loader import backend, profile

SECONDS = 0.2


@pytest.fixture(scope="module")
def net() -> bytes:
    return digits_net(digits().train)


def timed(runtime: str, net: bytes, batch: int) -> tuple[Built, KernelTimes]:
    request = BuildRequest(profile("cpu"), (1, batch, 64), threads=1)
    it = backend(runtime)
    built = it.build(net, request)
    feeds = {"input": digits().test.inputs(0, batch)}
    times = it.layer_times(built.engine, request, built.layers, feeds, SECONDS)
    return built, as_measured(times, request)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_layers_of_a_cpu_engine_are_measured(runtime: str, net: bytes) -> None:
    built, found = timed(runtime, net, 64)
    assert (found.measured, found.batch) == (True, 64)
    assert "cores" in found.where
    by_node = {
        node: time
        for layer, time in zip(built.layers, found.microseconds, strict=True)
        for node in layer.onnx_nodes
    }
    assert by_node["conv"] is not None
    assert by_node["fc"] is not None
    assert by_node["conv"] > by_node["fc"] > 0  # 15 times as many operations
    assert found.total >= by_node["conv"] + by_node["fc"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_larger_batch_takes_longer(runtime: str, net: bytes) -> None:
    assert timed(runtime, net, 64)[1].total > 2 * timed(runtime, net, 1)[1].total


def test_an_engine_for_an_absent_gpu_takes_the_roofline(net: bytes) -> None:
    device = profile("rtx4060ti")
    runtime = backend("tensorrt_rtx")
    if runtime.runnable(device).ok:
        pytest.skip("the device is here")
    request = BuildRequest(device, (1, 8, 8))
    built = runtime.build(net, request)
    found = estimated(built, request)
    assert not found.measured
    assert "rtx4060ti" in found.where
    assert all(time is not None for time in found.microseconds)
    assert found.total > 0
