"""NNCF's post-training quantisation of an OpenVINO model, plain and with accuracy control.

All other options are its defaults. Of samples one by one (as its guide has it) its activation
ranges are the means of each sample's extremes, which clips: see a ResNet-20's agreement.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from contest.search import Files, Task

XML, BIN = "model.xml", "model.bin"


def quantise(task: Task) -> tuple[Files, dict[str, Any]]:
    """`nncf.quantize` with the preset that `task.args` names."""
    import nncf

    model, samples = _read(task), nncf.Dataset([row[None] for row in task.inputs])
    preset = nncf.QuantizationPreset(task.args["preset"])
    return _written(
        task, nncf.quantize(model, samples, preset=preset, subset_size=len(task.inputs))
    )


def quantise_with_accuracy_control(task: Task) -> tuple[Files, dict[str, Any]]:
    """`nncf.quantize_with_accuracy_control` to the top-1 drop that `task.args` allows.

    Accuracy is that on the calibration samples: the test samples are nobody's to look at.
    """
    import nncf

    samples = nncf.Dataset([row[None] for row in task.inputs])
    labelled = nncf.Dataset(
        [(row[None], int(label)) for row, label in zip(task.inputs, task.labels, strict=True)],
        lambda item: item[0],
    )
    model = nncf.quantize_with_accuracy_control(
        _read(task),
        samples,
        labelled,
        _top1,
        max_drop=task.args["drop"],
        subset_size=len(task.inputs),
    )
    return _written(task, model)


def _top1(model: Any, items: Iterable[tuple[Any, int]]) -> tuple[float, None]:
    """Top-1 as a fraction, of a compiled model over (input, label)."""
    right = [int(np.argmax(model(inputs)[0])) == label for inputs, label in items]
    return float(np.mean(right)), None


def _read(task: Task) -> Any:
    from rtc.targets.backends.openvino import openvino_quietly

    return openvino_quietly().Core().read_model(task.model, b"")


def _written(task: Task, model: Any) -> tuple[Files, dict[str, Any]]:
    from rtc.targets.backends.openvino import openvino_quietly

    path = task.folder / XML
    openvino_quietly().save_model(model, path, compress_to_fp16=False)
    kinds = [node.get_type_name() for node in model.get_ops()]
    files = {XML: path.read_bytes(), BIN: path.with_suffix(".bin").read_bytes()}
    return files, {"fake_quantize": kinds.count("FakeQuantize")}
