"""Samples as a pass sees them: raw as they were captured, with the preprocessing declared once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from rtc.compiler.core.arrays import Array, Float32Array, Int64Array

Layout = Literal["hw", "hwc", "chw", "as-is"]
"""How the axes of a raw sample lie: height, width, channels; or as they are."""


@dataclass(frozen=True)
class Preprocess:
    """From raw samples to what the model takes: `(raw * scale - mean) / std`, per channel.

    `mean` and `std` hold one value, or one per channel. `layout` is the raw samples' own: "hw"
    (grey images without a channel axis), "hwc", "chw", or "as-is" for tensors that are only scaled.
    The output is float32, NCHW for images.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "as-is"

    def __call__(self, raw: Array) -> Float32Array:
        """Preprocess a batch: shape (N, …) in, float32 (N, …) out, contiguous."""
        x = raw.astype(np.float32) * np.float32(self.scale)
        if self.layout == "hw":
            x = x[:, None]
        elif self.layout == "hwc":
            x = x.transpose(0, 3, 1, 2)
        tail = (1,) * (x.ndim - 2)
        mean = np.asarray(self.mean, np.float32).reshape(1, -1, *tail)
        std = np.asarray(self.std, np.float32).reshape(1, -1, *tail)
        return np.ascontiguousarray((x - mean) / std, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Split:
    """Some samples of a data set, with labels (class indices) where there are any.

    `raw` is an array (N, …), or what gives such arrays by slices and reads them then. `whole` is
    the batch that a model fixes: part of one is no use to it.
    """

    name: str
    raw: Array
    labels: Int64Array | None
    preprocess: Preprocess
    whole: int = 1

    def __len__(self) -> int:
        return len(self.raw)

    def inputs(self, start: int = 0, stop: int | None = None) -> Float32Array:
        """Samples `start` to `stop`, preprocessed: float32 (n, …)."""
        return self.preprocess(self.raw[start:stop])

    def batches(self, size: int) -> Iterator[Float32Array]:
        """Every sample once, in order, `size` at a time (the last batch may be smaller)."""
        for start in range(0, len(self), size):
            yield self.inputs(start, start + size)

    def batches_for(self, fixed: int | None, size: int) -> Iterator[tuple[int, Array]]:
        """Batches for a model, each with the index of its first sample.

        A batch that the model fixes goes before `size`; samples that do not fill it are left out.
        """
        end = len(self) - len(self) % (fixed or 1)
        for start in range(0, end, fixed or size):
            yield start, self.inputs(start, min(start + (fixed or size), end))

    def head(self, count: int) -> Split:
        """The first `count` samples, or a few more for whole batches."""
        count = -(-count // self.whole) * self.whole
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, raw=self.raw[:count], labels=labels)


@dataclass(frozen=True)
class Dataset:
    """Where samples come from; what a data set's factory returns.

    `load` gives raw samples (N, …) and labels (N,), or None; it is called once, and what it gave
    names the data. `digest` is the data set's own word of its content, and nothing rests on it:
    it need not follow the samples. `groups`
    (N,) numbers what samples of a class have in common (photographs of one object): those of one
    group all go to the same split. None where samples are independent. `files` are plain files that
    `load` gives the content of, and nothing else has part in it; none where rtc cannot know that.
    """

    name: str
    classes: int
    digest: str
    preprocess: Preprocess
    load: Callable[[], tuple[Array, Int64Array | None]]
    groups: Int64Array | None = None
    files: tuple[Path, ...] = ()


class Splits(Protocol):
    """The three splits of a recipe's data; none shares a sample with another.

    Labels are below `classes`. `digest` identifies all samples, labels and preprocessing, by what
    was read; nothing is read before it or a split is asked for.
    """

    @property
    def classes(self) -> int:
        """The number of classes; labels are below it."""
        ...

    @property
    def digest(self) -> str:
        """Identifies all samples, labels and preprocessing."""
        ...

    @property
    def train(self) -> Split:
        """What a model is trained on."""
        ...

    @property
    def calibration(self) -> Split:
        """What ranges are taken from, and plans are tried on."""
        ...

    @property
    def test(self) -> Split:
        """What is reported on; nothing is fitted to it."""
        ...


@dataclass(frozen=True)
class WholeBatches(Splits):
    """The same splits for a model that fixes its batch."""

    data: Splits
    size: int

    @property
    def classes(self) -> int:
        return self.data.classes

    @property
    def digest(self) -> str:
        return self.data.digest

    @property
    def train(self) -> Split:
        return replace(self.data.train, whole=self.size)

    @property
    def calibration(self) -> Split:
        return replace(self.data.calibration, whole=self.size)

    @property
    def test(self) -> Split:
        return replace(self.data.test, whole=self.size)


def filled(samples: Array, size: int) -> Array:
    """Samples (n, …), and from the first on again until they are whole batches of `size`.

    So each weighs about as much as another in what is told of all.
    """
    missing = -len(samples) % size
    if not missing:
        return samples
    again = np.take(samples, range(missing), axis=0, mode="wrap")
    return np.concatenate([samples, again])
