"""One streaming walk over the calibration set, for every statistic that passes ask for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NoReturn

import numpy as np

from rtc.calibration.observers import Observer, make_observer
from rtc.calibration.oracle import Oracle, expose
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split
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
    kinds = {
        observation.tensor: observation.kind
        for observation in sorted(observations, key=lambda o: o.tensor)
    }
    observers = {tensor: make_observer(kind) for tensor, kind in kinds.items()}
    layers, observed = _observed(proto, kinds)
    inner = [tensor for tensor in kinds if tensor in layers]
    cores = len(os.sched_getaffinity(0))
    with Oracle(observed, inner or None) as oracle, ThreadPoolExecutor(cores) as pool:
        _check_shape(split, oracle.sample)
        for start, inputs in oracle.batches(split, fitting_batch(oracle, split)):
            _observe(oracle, inputs, observers, pool, (layers, start))
            progress(start + len(inputs), len(split), f"{len(kinds)} tensors")
    return {tensor: observers[tensor].result(kind) for tensor, kind in kinds.items()}


def _observed(proto: bytes, tensors: Iterable[str]) -> tuple[dict[str, str], bytes]:
    """The name of the node that computes each tensor, and the model with `tensors` as outputs."""
    import onnx

    graph = onnx.load_model_from_string(proto).graph
    layers = {t: node.name or node.op_type for node in graph.node for t in node.output}
    return layers, expose(proto, graph, [tensor for tensor in tensors if tensor in layers])


def _observe(
    oracle: Oracle,
    inputs: Array,
    observers: Mapping[str, Observer],
    pool: Executor,
    where: tuple[Mapping[str, str], int],
) -> None:
    """Show a batch to every observer; its activations are freed before the next one runs.

    `where` is what errors name: the layer of each tensor, and the index of the first sample.
    """
    values = {oracle.input_name: inputs, **oracle.run(inputs)}
    values = {tensor: np.atleast_1d(values[tensor]) for tensor in observers}
    finite = pool.map(lambda tensor: observers[tensor].update(values[tensor]), observers)
    for tensor, fine in zip(observers, finite, strict=True):
        if not fine:
            layers, start = where
            _refuse(values[tensor], tensor, layers.get(tensor, "the input"), start)


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


def _refuse(values: Array, tensor: str, layer: str, start: int) -> NoReturn:
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    raise DataError(
        "an activation is NaN or infinite",
        where=f"layer {layer}",
        seen=f"tensor {tensor}, calibration sample {start + int(bad.argmax())}",
        fix="check the preprocessing and the model's weights",
        id="not-finite-activation",
    )
