"""What others make of the same float model with the same calibration samples, in INT8."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from contest import nncf_static, onnxruntime_static
from contest.search import MODEL, Files, Task

Floats = npt.NDArray[np.float32]


def logits(
    runtime: str, model: bytes, calibration: Floats, test: Floats
) -> Iterator[tuple[str, Floats]]:
    """A peer's name and its logits (N, classes) of `test`; those that fail are left out.

    The peers of a GPU runtime are those of the CPU: their graphs hold the same arithmetic.
    """
    for name, search, args, run in _PEERS[runtime]:
        with tempfile.TemporaryDirectory() as folder:
            labels = np.zeros(len(calibration), np.int64)
            task = Task(model, calibration, labels, Path(folder), args)
            try:
                files, _ = search(task)
                found = run(files, test)
            except Exception:  # noqa: BLE001 - a peer that fails is no yardstick
                continue
        yield name, found


def _by_onnxruntime(files: Files, test: Floats) -> Floats:
    from rtc.calibration.oracle import Oracle

    with Oracle(files[MODEL]) as oracle:
        return np.concatenate([oracle.run(row[None])[oracle.outputs[0]] for row in test])


def _by_openvino(files: Files, test: Floats) -> Floats:
    from rtc.targets.backends.openvino import openvino_quietly

    core = openvino_quietly().Core()
    model = core.read_model(files[nncf_static.XML], files[nncf_static.BIN])
    hint: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", hint)
    return np.concatenate([compiled(row[None])[0] for row in test])


_ORT = ("quantize_static", onnxruntime_static.quantise, {"method": "MinMax"}, _by_onnxruntime)
_NNCF = ("NNCF", nncf_static.quantise, {"preset": "mixed"}, _by_openvino)
_PEERS = {"onnxruntime": (_ORT, _NNCF), "openvino": (_NNCF, _ORT), "tensorrt_rtx": (_ORT, _NNCF)}
