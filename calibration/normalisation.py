"""Whether samples were prepared as the model's training samples were; if not, what was forgotten.

Per-channel means and deviations of the raw samples (the declared preprocessing undone, which is
affine) are compared with those of reference samples. Where they differ, each known mistake is tried
on the reference; the one that explains the difference is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rtc.compiler.core.arrays import Float64Array
from rtc.compiler.core.data import Preprocess, Split

_IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation of each channel; `error` is the mean's own standard error."""

    mean: Float64Array
    std: Float64Array
    error: Float64Array

    def moved(self, scale: Float64Array | float, shift: Float64Array | float = 0.0) -> Moments:
        """The moments of `x · scale + shift`."""
        return Moments(self.mean * scale + shift, self.std * scale, self.error * scale)

    def swapped(self) -> Moments:
        """The moments of the channels in the opposite order."""
        return Moments(self.mean[::-1], self.std[::-1], self.error[::-1])

    def to_dict(self) -> dict[str, list[float]]:
        """Mean and deviation by channel, rounded for a person."""
        return {"mean": self.mean.round(4).tolist(), "std": self.std.round(4).tolist()}


def moments(split: Split) -> Moments:
    """The moments of a split's raw samples, streamed; axis 1 of the inputs holds the channels."""
    sums, squares, count = [], np.zeros(1), 0
    for inputs in split.batches(_BATCH):
        flat = inputs.reshape(*inputs.shape[:2], -1).astype(np.float64)
        sums.append(flat.mean(axis=2))
        squares = squares + np.square(flat).mean(axis=2).sum(axis=0)
        count += len(inputs)
    each = np.concatenate(sums)
    mean = each.mean(axis=0)
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    own = Moments(mean, std, each.std(axis=0) / np.sqrt(count))
    return _undone(own, split.preprocess)


def _undone(own: Moments, preprocess: Preprocess) -> Moments:
    std, mean = np.asarray(preprocess.std), np.asarray(preprocess.mean)
    return own.moved(std / preprocess.scale, mean / preprocess.scale)


def mistake(seen: Moments, reference: Moments, preprocess: Preprocess) -> str | None:
    """What was done wrong to the samples behind `seen`; None where nothing was.

    Raises nothing: a difference that no known mistake explains is called just that.
    """
    if len(seen.mean) != len(reference.mean):
        return "another number of channels"
    plain = _distance(seen, reference)
    if plain <= 1.0:
        return None
    known = _mistakes(preprocess, len(seen.mean))
    distances = {name: _distance(seen, change(reference)) for name, change in known.items()}
    best = min(distances, key=lambda name: distances[name])
    if distances[best] <= max(1.0, plain / 4):
        return best
    return "no known mistake explains it: are these images of the same kind?"


def _distance(seen: Moments, other: Moments) -> float:
    """1 where the difference is as large as chance and taste allow, and more beyond.

    Allowed: a tenth of a deviation and four standard errors for a mean, 1.5 × for a deviation.
    """
    spread = np.maximum(other.std, 1e-12)
    allowed = 0.1 * spread + 4 * np.hypot(seen.error, other.error)
    means = np.abs(seen.mean - other.mean) / allowed
    ratios = np.abs(np.log(np.maximum(seen.std, 1e-12) / spread)) / np.log(1.5)
    return float(max(means.max(), ratios.max()))


def _mistakes(preprocess: Preprocess, channels: int) -> dict[str, Callable[[Moments], Moments]]:
    """What each mistake would make of the reference's raw samples."""
    own_mean, own_std = np.asarray(preprocess.mean), np.asarray(preprocess.std)
    known: dict[str, Callable[[Moments], Moments]] = {
        "0-1 where the model expects 0-255": lambda x: x.moved(1 / 255),
        "0-255 where the model expects 0-1": lambda x: x.moved(255.0),
        "normalised already, and preprocessing does it again": lambda x: x.moved(
            preprocess.scale / own_std, -own_mean / own_std
        ),
    }
    if channels == 3:
        mean, std = _IMAGENET
        known |= {
            "channels swapped (BGR for RGB)": Moments.swapped,
            "ImageNet mean and std forgotten": lambda x: x.moved(std, mean),
            "ImageNet mean and std forgotten, and 0-255 for 0-1": lambda x: x.moved(
                std * 255, mean * 255
            ),
            "ImageNet mean and std applied twice": lambda x: x.moved(1 / std, -mean / std),
        }
    return known
