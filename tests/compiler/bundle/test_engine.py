"""A bundle's engine: what it refuses before a byte of it is loaded, and what it refuses to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from rtc.compiler.bundle import bundles
from rtc.compiler.bundle.engine import load
from rtc.compiler.core.errors import BuilderError, DataError, IntegrityError, MachineError
from rtc.compiler.core.target import DeviceProfile, Runner
from rtc.compiler.core.unit import Signature, TensorSpec
from rtc.compiler.measure import fidelity
from rtc.compiler.measure.provenance import hardware, kernels_of
from rtc.targets import loader

MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
double (float[n,3] x) => (float[n,3] y) { y = Add(x, x) }
"""
CPU = loader.profile("cpu")
VERSION = "1.0.0+0123456789ab"


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Path]:
    """Publish a bundle whose engine doubles; the engine's entry can be changed."""
    backend = loader.backend("onnxruntime")
    graph = onnx.parser.parse_model(MODEL).SerializeToString()
    entry = bundles.EngineEntry("onnxruntime", backend.engine_file, "onnxruntime 1", {}, (1, 2, 4))
    floats = (TensorSpec("x", "float32", ("n", 3)),), (TensorSpec("y", "float32", ("n", 3)),)

    def make(
        device: DeviceProfile = CPU, *, more: Mapping[str, bytes] | None = None, **changes: Any
    ) -> Path:
        engine = replace(entry, **changes)
        manifest = bundles.Manifest(
            "double", VERSION, device.name, True, engine, Signature(*floats)
        )
        return bundles.publish(
            tmp_path,
            manifest,
            {
                backend.engine_file: graph,
                bundles.PROFILE: loader.profile_text(device),
                **(more or {}),
            },
        )

    return make


@pytest.mark.parametrize(
    ("binding", "needed"),
    [({"machine": "riscv64"}, "machine riscv64"), ({"firmware": "7"}, "firmware 7")],
)
def test_an_engine_bound_to_another_machine_is_refused(publish, binding, needed) -> None:
    with pytest.raises(MachineError) as caught:
        load(publish(binding=binding))
    assert caught.value.id == "wrong-device"
    assert caught.value.expected == needed
    assert caught.value.seen


@pytest.mark.parametrize("batch", [0, 5])
def test_a_batch_that_the_engine_was_not_built_for_is_refused(publish, batch) -> None:
    with load(publish()) as engine, pytest.raises(DataError) as caught:
        engine(np.ones((batch, 3), np.float32))
    assert (caught.value.id, caught.value.expected) == ("batch", "1 to 4")


def test_another_type_is_refused_with_the_cast_that_mends_it(publish) -> None:
    with load(publish()) as engine:
        with pytest.raises(DataError) as caught:
            engine(np.ones((1, 3)))
        assert "astype('float32')" in caught.value.fix
        with pytest.raises(DataError) as caught:
            engine(np.ones((1, 4), np.float32))
        assert "astype" not in caught.value.fix


def test_an_engine_names_the_runtime_that_runs_it_here(publish) -> None:
    with load(publish()) as engine:
        assert engine.runtime == f"onnxruntime {loader.backend('onnxruntime').available().version}"
        np.testing.assert_array_equal(engine(np.ones((4, 3), np.float32)), 2)
        assert engine.batches == (1, 2, 4)


def test_an_engine_for_a_device_of_ones_own_is_loaded_without_its_profile_file(publish) -> None:
    with load(publish(DeviceProfile("my-board", "me", "cpu", ("onnxruntime",)))) as engine:
        assert engine.device.name == "my-board"


def graphs(text: str = MODEL) -> dict[str, bytes]:
    """What a bundle says that its engine was built from, and the float model behind that."""
    graph = onnx.parser.parse_model(text).SerializeToString()
    inputs = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    known = fidelity.of_inputs(graph, graph, inputs, CPU)
    probe = fidelity.packed(known.stored(), small=True)
    return {"graph.onnx": graph, "float.onnx": graph, fidelity.FILE: probe}


def held_here(*batches: int) -> dict[str, Any]:
    """The entry of an engine that was held against its graph on this machine."""
    runtime = f"onnxruntime {loader.backend('onnxruntime').available().version}"
    there = {str(batch): "" for batch in batches}
    return {"runtime": runtime, "forms": there, "held_on": kernels_of(runtime, "cpu")}


@pytest.mark.parametrize("value", [1.0, 0.0, np.nan])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_engine_that_is_not_its_graph_is_refused_whatever_it_is_called_with(
    publish, batch, value
) -> None:
    halved = graphs(MODEL.replace("Add(x, x)", "Relu(x)"))
    with load(publish(more=halved)) as engine, pytest.raises(BuilderError) as caught:
        engine(np.full((batch, 3), value, np.float32))
    assert (caught.value.id, caught.value.where) == ("engine-differs", f"batch {batch}")


def test_an_engine_is_held_to_its_graph_once_for_each_batch_that_it_was_not(
    publish, monkeypatch
) -> None:
    asked: list[int] = []
    settle = fidelity.settle

    def watched(runner: Runner, known: fidelity.Probe, batch: int) -> fidelity.Deviation:
        asked.append(batch)
        return settle(runner, known, batch)

    monkeypatch.setattr(fidelity, "settle", watched)
    with load(publish(more=graphs(), **held_here(1, 2))) as engine:
        for batch in (1, 2, 3, 2, 3, 1):
            np.testing.assert_array_equal(engine(np.ones((batch, 3), np.float32)), 2)
    assert asked == [3]


def test_an_engine_that_was_held_on_another_processor_is_held_again(publish, monkeypatch) -> None:
    there = held_here(1, 2)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    hardware.cache_clear()
    try:
        halved = graphs(MODEL.replace("Add(x, x)", "Relu(x)"))
        with load(publish(more=halved, **there)) as engine, pytest.raises(BuilderError):
            engine(np.ones((1, 3), np.float32))
    finally:
        hardware.cache_clear()


@pytest.mark.parametrize("value", [np.nan, 1e30, 0.0])
def test_a_right_engine_is_not_refused_for_what_it_is_called_with(publish, value) -> None:
    with load(publish(more=graphs())) as engine:
        inputs = np.full((3, 3), value, np.float32)
        np.testing.assert_array_equal(engine(inputs), inputs + inputs)


def test_an_engine_of_a_bundle_without_samples_is_held_on_none(publish) -> None:
    halved = graphs(MODEL.replace("Add(x, x)", "Relu(x)"))
    del halved[fidelity.FILE]
    with load(publish(more=halved)) as engine:
        np.testing.assert_array_equal(engine(np.ones((3, 3), np.float32)), 2)


def test_a_bundle_whose_samples_are_none_is_refused(publish) -> None:
    with pytest.raises(IntegrityError, match="is no probe"):
        load(publish(more={fidelity.FILE: b"none"}))
