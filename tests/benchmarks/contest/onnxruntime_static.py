"""ONNX Runtime's own post-training quantisation, as its guide has it for x86.

`quant_pre_process`, then `quantize_static` to Q/DQ with uint8 activations and int8 weights per
channel, in 7 bits (`reduce_range`) on a CPU without VNNI. The model runs in the same runner as
rtc's own candidates on ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from contest.search import MODEL, Files, Task
from rtc.targets.backends import x86

METHODS = {"min-max": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}


def quantise(task: Task) -> tuple[Files, dict[str, Any]]:
    """`quantize_static` with the calibration method that `task.args` names."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    given, prepared, done = (task.folder / f"{name}.onnx" for name in ("given", "prepared", "done"))
    given.write_bytes(task.model)
    quant_pre_process(given, prepared)
    quantize_static(
        prepared,
        done,
        _Reader(task.inputs, _input_name(task.model)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[task.args["method"]],
        reduce_range=x86.adds_in_16_bits(),
    )
    return {MODEL: done.read_bytes()}, {}


class _Reader:
    """Samples one by one, as a `CalibrationDataReader` gives them."""

    def __init__(self, inputs: npt.NDArray[np.float32], name: str) -> None:
        self._feeds: Iterator[dict[str, Any]] = ({name: row[None]} for row in inputs)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def _input_name(model: bytes) -> str:
    import onnx

    return str(onnx.load_from_string(model).graph.input[0].name)
