"""One streaming walk over the calibration set, for every statistic that passes ask for."""

from __future__ import annotations

import numpy as np

from rtc.calibration.observers import Observer, make_observer
from rtc.calibration.oracle import Oracle, with_outputs
from rtc.compiler.core.data import Array, Split
from rtc.compiler.core.errors import DataError
from rtc.compiler.core.passes import Observation, Statistics
from rtc.compiler.core.progress import Progress, silent

_BATCH = 16
_BYTES = 512 << 20  # every observed activation of one batch is in memory at once


def collect(
    proto: bytes,
    observations: frozenset[Observation],
    split: Split,
    progress: Progress = silent,
) -> Statistics:
    """The ranges of the observed tensors of a float model, by unoptimised ONNX Runtime.

    Raises:
        DataError: samples of another shape than the model takes, or a tensor that is NaN or
            infinite on a sample; the layer and the sample are named.
        RecipeError: an observer of a kind that does not exist.
    """
    if not observations:
        return {}
    kinds = {each.tensor: each.kind for each in sorted(observations, key=lambda o: o.tensor)}
    observers = {tensor: make_observer(kind) for tensor, kind in kinds.items()}
    layers = _layers(proto)
    inner = [tensor for tensor in kinds if tensor in layers]
    with Oracle(with_outputs(proto, inner), inner or None) as oracle:
        _check_shape(split, oracle.sample)
        for start, inputs in oracle.batches(split, fitting_batch(oracle, split)):
            values = {oracle.input_name: inputs, **oracle.run(inputs)}
            for tensor, observer in observers.items():
                _take(observer, values[tensor], tensor, layers.get(tensor, "the input"), start)
            progress(start + len(inputs), len(split), f"{len(kinds)} tensors")
    return {tensor: observers[tensor].result(kind) for tensor, kind in kinds.items()}


def _check_shape(split: Split, wanted: tuple[int | None, ...]) -> None:
    seen = split.inputs(0, 1).shape[1:]
    fits = len(seen) == len(wanted) and all(
        size in (None, given) for given, size in zip(seen, wanted, strict=True)
    )
    if not fits:
        raise DataError(
            "the calibration samples do not fit the model",
            where=f"{split.name} samples, after preprocessing",
            seen=" × ".join(map(str, seen)),
            expected=" × ".join("any" if size is None else str(size) for size in wanted),
            fix="crop or scale them as the model's own were, or change data.preprocess.layout",
            id="wrong-shape",
        )


def fitting_batch(oracle: Oracle, split: Split) -> int:
    """How many samples' activations fit in memory together."""
    if oracle.batch:
        return oracle.batch
    size = sum(values.nbytes for values in oracle.run(split.inputs(0, 1)).values())
    return max(1, min(_BATCH, _BYTES // max(size, 1)))


def _take(observer: Observer, values: Array, tensor: str, layer: str, start: int) -> None:
    if observer.update(values):
        return
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    raise DataError(
        "an activation is NaN or infinite",
        where=f"layer {layer}",
        seen=f"tensor {tensor}, calibration sample {start + int(bad.argmax())}",
        fix="check the preprocessing and the model's weights",
        id="not-finite-activation",
    )


def _layers(proto: bytes) -> dict[str, str]:
    """The name of the node that computes each tensor."""
    import onnx

    graph = onnx.load_model_from_string(proto).graph
    return {name: node.name or node.op_type for node in graph.node for name in node.output}
