"""Samples from files for `rtc run`, and what to say of an engine's output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.compiler.core.errors import DataError, GateError, MachineError

if TYPE_CHECKING:
    from rtc.compiler.bundle.engine import Engine
    from rtc.compiler.core.arrays import Array
    from rtc.compiler.core.outputs import OutputKind

_LAYOUT = (
    "the layout is the recipe's (data.preprocess.layout) and compiled in: where it is wrong, set it"
    " there and compile again"
)


def read(path: Path, engine: Engine, *, preprocessed: bool) -> tuple[Array, Sequence[str]]:
    """Samples (N, …) of an array file, a picture or a folder of either, and a name for each.

    An array of one sample may come without its batch axis.

    Raises:
        DataError: no such file, not samples, or samples that do not go together.
    """
    from rtc.calibration.folder import IMAGES, listed_samples

    if path.is_dir() or path.suffix.lower() in IMAGES:
        try:
            return listed_samples(path, engine.preprocess)
        except DataError as error:
            error.fix = error.fix or (_LAYOUT if error.id == "wrong-layout" else "")
            raise
    array, rank = _array(path), len(engine.input.shape)
    if engine.preprocess.layout == "hw" and not preprocessed:
        rank -= 1  # the channel axis is not there yet
    if array.ndim == rank - 1:
        array = array[None]
    if array.ndim != rank or not len(array):
        raise DataError(
            "not a batch of samples",
            where=str(path),
            seen=f"{array.dtype} {array.shape}",
            expected=f"(samples, …) of {rank} axes, or one sample of {rank - 1}",
        )
    return array, [str(index) for index in range(len(array))]


def _array(path: Path) -> Array:
    """The array of an .npy file, or the array `x` of an .npz file; never a pickle."""
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), id="missing-file")
    try:
        with path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            array: Array = loaded if isinstance(loaded, np.ndarray) else loaded["x"]
    except KeyError as cause:
        raise DataError("the .npz file has no array x", where=str(path)) from cause
    except Exception as cause:
        expected = "an .npy file, or an .npz file with an array x"
        raise DataError("cannot be read", where=str(path), expected=expected) from cause
    return array


def infer(engine: Engine, samples: Array, *, preprocessed: bool) -> Array:
    """The engine's output for every sample, at most its largest batch at a time.

    Raises:
        DataError: the samples do not fit the engine or its preprocessing.
        GateError: the engine gave a NaN or an infinity.
    """
    batches = _batches(samples, engine.manifest.engine.batches[2])
    answers = [engine(batch if preprocessed else _prepared(engine, batch)) for batch in batches]
    output: Array = np.concatenate(answers)
    if not np.isfinite(output).all():
        raise GateError("the engine's output is not finite", id="not-finite")
    return output


def _batches(samples: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _prepared(engine: Engine, raw: Array) -> Array:
    """What the engine takes, made of raw samples.

    Raises:
        DataError: they are none of the layout that it was compiled for.
    """
    from rtc.compiler.bundle.engine import fits

    spec, layout = engine.input, engine.preprocess.layout
    refused = DataError(
        "raw samples do not fit the engine's preprocessing",
        where=spec.name,
        seen=f"{raw.dtype} {raw.shape}",
        expected=f"samples of layout {layout}, which become ({', '.join(map(str, spec.shape))})",
        fix=f"give --preprocessed where they are what the engine takes; {_LAYOUT}",
        id="wrong-layout",
    )
    try:
        inputs = engine.preprocess(raw)
    except (ValueError, TypeError) as cause:
        raise refused from cause
    if not fits(spec, inputs):
        raise refused
    return inputs


def top_classes(outputs: Array, kind: OutputKind, count: int) -> list[list[dict[str, Any]]]:
    """For each row of an engine's outputs its most likely classes, with their probability."""
    from rtc.compiler.core.outputs import log_probabilities

    probabilities = np.exp(log_probabilities(outputs, kind))
    order = np.argsort(-outputs, axis=1, kind="stable")[:, :count]
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
