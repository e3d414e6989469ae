"""One process for graph after graph, with the real runtimes."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict

import numpy as np
import pytest
from digits_net import digits, digits_net
from wrong_runtime import WrongRuntime

from rtc.compiler.core.errors import BuilderError, InternalError, ModelError
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.core.unit import OnnxModel, Signature, Unit
from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.measure import fidelity, worker
from rtc.compiler.measure.comparison import Case, engine_subject
from rtc.compiler.measure.reference import reference_logits
from rtc.compiler.search.workbench import BESIDE, BUILT, Runtime, _Workshop
from rtc.targets.loader import backend, profile

CPU = BuildRequest(profile("cpu"), (1, 8, 8), threads=1)
SAMPLES = digits().test.head(20)  # the last batch is not a full one


@pytest.fixture(scope="module")
def net() -> bytes:
    return digits_net(digits().train)


def unit(proto: bytes) -> Unit:
    return Unit(OnnxModel(proto), Signature((), ()))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_graph_is_built_run_taken_apart_and_timed_beside_another(name: str, net: bytes) -> None:
    it = backend(name)
    beside = engine_subject(BESIDE, name, it.build(net, CPU).engine, CPU)
    with Runtime(it, CPU, SAMPLES, beside=beside) as runtime:
        for _ in range(2):
            built = runtime.build(unit(net))
            assert built.engine == b""  # it stays where it is
            assert {"conv", "fc"} <= {node for layer in built.layers for node in layer.onnx_nodes}
            expected = reference_logits(net, SAMPLES)
            np.testing.assert_allclose(runtime.logits(), expected, rtol=1e-3, atol=1e-4)
        times = runtime.kernel_times(built, 0.1)
        assert times.measured
        assert len(times.microseconds) == len(built.layers)
        compared = runtime.compared(0.2, seed=0)
        assert set(compared.series[Case(LatencyMode.FORWARD, 8)]) == {BUILT, BESIDE}
        assert 0.1 < compared.speedup(BUILT, BESIDE, Case(LatencyMode.FORWARD, 8)).value < 10


def test_a_graph_for_a_device_that_is_not_here_is_built_and_estimated(net: bytes) -> None:
    it, request = backend("tensorrt_rtx"), BuildRequest(profile("rtx4060ti"), (1, 8, 8))
    if it.runnable(request.profile).ok:
        pytest.skip("the device is here")
    with Runtime(it, request, SAMPLES) as runtime:
        built = runtime.build(unit(net))
        times = runtime.kernel_times(built, 0.1)
    assert not times.measured
    assert times.total > 0


def test_what_is_refused_or_killed_leaves_it_ready_for_the_next(net: bytes) -> None:
    with Runtime(backend("onnxruntime"), CPU, SAMPLES) as runtime:
        with pytest.raises(ModelError):
            runtime.build(unit(b"no model"))
        runtime.build(unit(net))
        process = runtime._bench._workers[BUILT]._child._process
        os.kill(process.pid, signal.SIGABRT)
        with pytest.raises(BuilderError):
            runtime.logits()
        runtime.build(unit(net))
        assert runtime.logits().shape == (20, 10)


@pytest.mark.parametrize("wrong", [1, 8])
def test_an_engine_that_is_wrong_at_a_batch_answers_nothing(net: bytes, wrong: int) -> None:
    inputs = SAMPLES.inputs()
    head, content = worker.packed(SAMPLES.raw)
    samples = (content, head | {"preprocess": asdict(SAMPLES.preprocess)})
    tried = _Workshop(WrongRuntime(wrong), CPU, inputs, samples)
    probe = fidelity.packed(fidelity.probe(net, net, SAMPLES, CPU.profile))
    with pytest.raises(BuilderError, match=rf"batch {wrong}.*\d dB") as caught:
        tried.ask({"op": "build"}, {"graph.onnx": net, fidelity.FILE: probe})
    assert caught.value.id == "engine-differs"
    with pytest.raises(InternalError, match="nothing was built"):
        tried.ask({"op": "logits", "count": 8}, {})


def test_a_trial_holds_what_the_runtime_makes_of_a_graph(net: bytes) -> None:
    """Against another graph than the one that is built, every engine is wrong."""
    other = digits_net(digits().train.head(100))
    known = fidelity.probe(other, other, SAMPLES, CPU.profile)
    with Runtime(backend("onnxruntime"), CPU, SAMPLES) as runtime:
        with pytest.raises(BuilderError) as caught:
            runtime.build(unit(net), known)
        assert caught.value.id == "engine-differs"
        runtime.build(unit(net), fidelity.probe(net, net, SAMPLES, CPU.profile))
        assert runtime.logits().shape == (20, 10)
    subject = engine_subject(BESIDE, "onnxruntime", net, CPU, known)
    with pytest.raises(BuilderError, match="something else than its graph"):
        Runtime(backend("onnxruntime"), CPU, SAMPLES, beside=subject)
