"""Samples from a file for `rtc run`, and what to say of an engine's output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.compiler.core.errors import DataError, GateError, MachineError

if TYPE_CHECKING:
    from rtc.compiler.core.data import Array
    from rtc.compiler.engine import Engine


def read(path: Path) -> Array:
    """The array of an .npy file, or the array `x` of an .npz file; never a pickle.

    Raises:
        DataError: no such file, not an array, or no samples.
    """
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), id="missing-file")
    try:
        with path.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            array: Array = found if isinstance(found, np.ndarray) else found["x"]
    except KeyError as cause:
        raise DataError("the .npz file has no array x", where=str(path)) from cause
    except Exception as cause:
        expected = "an .npy file, or an .npz file with an array x"
        raise DataError("cannot be read", where=str(path), expected=expected) from cause
    if array.ndim < 2 or not len(array):
        seen = f"{array.dtype} {array.shape}"
        raise DataError(
            "not a batch of samples", where=str(path), seen=seen, expected="(samples, …)"
        )
    return array


def infer(engine: Engine, samples: Array, *, preprocessed: bool) -> Array:
    """The engine's output for every sample, at most its largest batch at a time.

    Raises:
        DataError: the samples do not fit the engine or its preprocessing.
        GateError: the engine gave a NaN or an infinity.
    """
    batches = _batches(samples, engine.manifest.engine.batches[2])
    found = [engine(batch if preprocessed else _prepared(engine, batch)) for batch in batches]
    output: Array = np.concatenate(found)
    if not np.isfinite(output).all():
        raise GateError("the engine's output is not finite", id="not-finite")
    return output


def _batches(samples: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _prepared(engine: Engine, raw: Array) -> Array:
    try:
        return engine.preprocess(raw)
    except (ValueError, TypeError) as cause:
        raise DataError(
            "raw samples do not fit the engine's preprocessing",
            seen=f"{raw.dtype} {raw.shape}",
            expected=f"layout {engine.preprocess.layout}",
            fix="give --preprocessed where they are what the engine takes",
        ) from cause


def top_classes(logits: Array, count: int) -> list[list[dict[str, Any]]]:
    """For each row of logits its most likely classes, with their softmax probability."""
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    return [
        [{"class": int(c), "probability": float(row[c])} for c in best]
        for row, best in zip(probabilities, order, strict=True)
    ]


def write(path: Path, array: Array) -> None:
    """Write an .npy file under exactly that name.

    Raises:
        MachineError: it cannot be written.
    """
    try:
        with path.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
    except OSError as cause:
        raise MachineError(f"cannot write it: {cause.strerror}", where=str(path)) from cause
