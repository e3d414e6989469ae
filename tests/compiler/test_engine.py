"""A bundle's engine: what it refuses before a byte of it is loaded, and what it refuses to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtc.compiler import bundle
from rtc.compiler.core.errors import DataError, MachineError
from rtc.compiler.core.target import DeviceProfile
from rtc.compiler.core.unit import Signature, TensorSpec
from rtc.compiler.engine import load
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
    import onnx

    backend = loader.backend("onnxruntime")
    graph = onnx.parser.parse_model(MODEL).SerializeToString()
    entry = bundle.EngineEntry("onnxruntime", backend.engine_file, "onnxruntime 1", {}, (1, 2, 4))
    floats = (TensorSpec("x", "float32", ("n", 3)),), (TensorSpec("y", "float32", ("n", 3)),)

    def make(device: DeviceProfile = CPU, **changes: Any) -> Path:
        engine = replace(entry, **changes)
        manifest = bundle.Manifest("double", VERSION, device.name, True, engine, Signature(*floats))
        return bundle.publish(
            tmp_path,
            manifest,
            {backend.engine_file: graph, bundle.PROFILE: loader.profile_text(device)},
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
