"""Samples divided into train, calibration and test, read once, when first asked for.

Divided by label (each class keeps its share in every split), by a seed, and without overlap: a
sample that occurs twice, bit for bit, is used once. What was read names the data: a data set's own
word of what it holds may not follow its samples.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rtc.compiler.core.arrays import Array, Int64Array
from rtc.compiler.core.data import Dataset, Preprocess, Split, Splits
from rtc.compiler.core.errors import DataError
from rtc.compiler.core.hashing import digest

_RANKS = {"hw": 3, "hwc": 4, "chw": 4}  # of a batch of raw samples
_CHANNEL_AXIS = {"hwc": 3, "chw": 1, "as-is": 1}


def load_splits(
    dataset: Dataset,
    fractions: tuple[float, float, float],
    seed: int,
    preprocess: Preprocess | None = None,
) -> Splits:
    """The splits (train, calibration, test) of a data set, by fractions that add up to 1 at most.

    `preprocess` goes before the data set's own. Errors are raised when a split or the digest is
    first asked for:

    Raises:
        DataError: samples and labels that do not fit together or are not numbers, a label out of
            range, samples that the preprocessing does not fit, a split without a sample.
    """
    return _Splits(dataset, fractions, seed, preprocess or dataset.preprocess)


def npz_dataset(path: Path, classes: int, preprocess: Preprocess) -> Dataset:
    """An .npz file with arrays `x` (raw samples, N first) and `y` (labels), both of numbers.

    Raises:
        DataError: no such file; when it is read: not an .npz, or without these arrays.
    """
    if not path.is_file():
        raise DataError("no such file", where=str(path), id="no-data-file")
    return Dataset(path.stem, classes, "", preprocess, lambda: _read_npz(path), files=(path,))


@dataclass(frozen=True)
class _Splits:
    dataset: Dataset
    fractions: tuple[float, float, float]
    seed: int
    preprocess: Preprocess

    @property
    def classes(self) -> int:
        return self.dataset.classes

    @cached_property
    def digest(self) -> str:
        """Of every sample, label and group that was read, and of how they are divided."""
        raw, labels = self._samples
        groups = self.dataset.groups
        return digest(
            {
                "samples": [str(raw.dtype), list(raw.shape[1:]), digest(b"".join(self._keys))],
                "labels": None if labels is None else digest(labels.tobytes()),
                "groups": None if groups is None else digest(np.asarray(groups).tobytes()),
                "classes": self.dataset.classes,
                "fractions": list(self.fractions),
                "seed": self.seed,
                "preprocess": asdict(self.preprocess),
            }
        )

    @cached_property
    def train(self) -> Split:
        return self._split("train", 0)

    @cached_property
    def calibration(self) -> Split:
        return self._split("calibration", 1)

    @cached_property
    def test(self) -> Split:
        return self._split("test", 2)

    @cached_property
    def _samples(self) -> tuple[Array, Int64Array | None]:
        raw, labels = self.dataset.load()
        _check_samples(self.dataset, raw)
        check_preprocess(self.dataset.name, self.preprocess, raw)
        return raw, None if labels is None else _checked_labels(self.dataset, labels, len(raw))

    @cached_property
    def _keys(self) -> list[bytes]:
        """The digest of each sample's bytes."""
        raw, _ = self._samples
        return [hashlib.sha256(np.ascontiguousarray(sample)).digest() for sample in raw]

    @cached_property
    def _parts(self) -> tuple[Int64Array, ...]:
        raw, labels = self._samples
        chosen = _first_occurrences(self._keys)
        classes = np.zeros(len(raw), np.int64) if labels is None else labels
        groups = np.arange(len(raw)) if self.dataset.groups is None else self.dataset.groups
        divided = _divide(classes[chosen], groups[chosen], self.fractions, self.seed)
        return tuple(chosen[part] for part in divided)

    def _split(self, name: str, index: int) -> Split:
        raw, labels = self._samples
        part = self._parts[index]
        if not len(part):
            raise DataError(
                f"the {name} split has no samples",
                where=f"data.split.{name}",
                seen=f"fraction {self.fractions[index]:g} of {len(raw)} samples",
                fix="raise the fraction, or give more samples",
                id="empty-split",
            )
        return Split(name, raw[part], None if labels is None else labels[part], self.preprocess)


def _divide(
    classes: Int64Array,
    groups: Int64Array,
    fractions: tuple[float, float, float],
    seed: int,
) -> Iterator[Int64Array]:
    """Shuffled positions for each fraction, every class divided alike and no group of it at all.

    A class of n groups is cut at ⌊n·f + u⌋ with one random u in [0, 1) per class, so that small
    classes are not all rounded to the same side.
    """
    random = np.random.default_rng(seed)
    edges = np.minimum(np.cumsum((0.0, *fractions)) + 1e-9, 1.0)  # 0.7 + 0.1 + 0.2 < 1 in binary
    parts: tuple[list[Int64Array], ...] = ([], [], [])
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        names, owner = np.unique(groups[members], return_inverse=True)
        place = np.argsort(random.permutation(len(names)))[owner]  # of each member's group
        order = np.argsort(place, kind="stable")
        ends = np.floor(edges * len(names) + random.random()).astype(int)
        cuts = np.searchsorted(place[order], ends)
        for index, part in enumerate(parts):
            part.append(members[order[cuts[index] : cuts[index + 1]]])
    return (random.permutation(np.concatenate(part)) for part in parts)


def _first_occurrences(keys: Sequence[bytes]) -> Int64Array:
    """Positions of the samples that no earlier one equals bit for bit."""
    seen = {key: index for index, key in reversed(list(enumerate(keys)))}
    return np.array(sorted(seen.values()), np.int64)


def _check_samples(dataset: Dataset, raw: Array) -> None:
    if raw.dtype.kind not in "buif":
        raise DataError(
            "the samples are not numbers",
            where=dataset.name,
            seen=f"dtype {raw.dtype}",
            expected="an array of integers or floats, samples first",
        )
    if raw.ndim < 2 or not raw.size:
        raise DataError("there are no samples", where=dataset.name, seen=f"shape {raw.shape}")
    if raw.dtype.kind == "f":
        bad = np.flatnonzero([not _is_finite(sample) for sample in raw])
        if len(bad):
            raise DataError(
                "samples that are NaN or infinite in float32",
                where=dataset.name,
                seen=f"{len(bad)} of {len(raw)}, first at {bad[0]}",
                id="not-finite-sample",
            )


def _is_finite(sample: Array) -> bool:
    """Whether all values are numbers that float32 holds."""
    with np.errstate(over="ignore"):  # what it does not hold is what is looked for
        return bool(np.isfinite(sample.astype(np.float32, copy=False)).all())


def _checked_labels(dataset: Dataset, labels: Array, count: int) -> Int64Array:
    """The labels as int64 (N,), each in [0, classes)."""
    if labels.ndim > 1 and len(labels) == count:
        one = labels.size == count
        raise DataError(
            "the labels are not one number for each sample",
            where=dataset.name,
            seen=f"labels of shape {labels.shape}",
            expected=f"class indices of shape ({count},)",
            fix=f"y.{'reshape(-1)' if one else 'argmax(axis=1)'} gives them",
            id="labels",
        )
    if labels.dtype.kind not in "bui":
        floats = labels.dtype.kind == "f"
        whole = "y.astype(np.int64)" if floats else "np.unique(y, return_inverse=True)[1]"
        raise DataError(
            "the labels are not integers",
            where=dataset.name,
            seen=f"dtype {labels.dtype}",
            expected="class indices",
            fix=f"{whole} gives them",
            id="labels",
        )
    if labels.shape != (count,):
        raise DataError(
            "samples and labels differ in number",
            where=dataset.name,
            seen=f"{count} samples, labels of shape {labels.shape}",
            id="labels",
        )
    bad = np.flatnonzero((labels < 0) | (labels >= dataset.classes))
    if len(bad):
        seen = labels[bad[0]]  # below 0 it says nothing of how many classes there are
        raise DataError(
            "a label is out of range",
            where=f"{dataset.name}, sample {bad[0]}",
            seen=str(seen),
            expected="0 or more" if seen < 0 else f"0 to {dataset.classes - 1}",
            id="label-out-of-range",
        )
    return labels.astype(np.int64)


def check_preprocess(name: str, preprocess: Preprocess, raw: Array) -> None:
    """Hold a preprocessing against raw samples (N, …); one is enough.

    Raises:
        DataError: no such layout, or one that does not fit their rank or channels.
    """
    if preprocess.layout not in {*_RANKS, "as-is"}:
        raise DataError(
            "no such layout",
            where=name,
            seen=repr(preprocess.layout),
            expected="as-is, hw, hwc or chw",
            id="wrong-layout",
        )
    rank = _RANKS.get(preprocess.layout, raw.ndim)
    if raw.ndim != rank:
        raise DataError(
            f'samples do not fit the layout "{preprocess.layout}"',
            where=name,
            seen=f"shape {raw.shape}",
            expected=f"{rank} dimensions, N first",
            id="wrong-layout",
        )
    axis = _CHANNEL_AXIS.get(preprocess.layout)
    channels = 1 if axis is None else raw.shape[axis]
    for field, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) not in (1, channels):
            raise DataError(
                f"preprocess.{field} does not fit the samples' channels",
                where=name,
                seen=f"{len(values)} values for {channels} channels",
                expected="one value, or one per channel",
                id="wrong-layout",
            )


def npz_headers(path: Path) -> tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]:
    """Shape and type of the arrays x and y of an .npz file, read from their headers alone.

    Raises:
        DataError: not an .npz file, or without these arrays.
    """
    with _explained(path), zipfile.ZipFile(path) as archive:
        _check_arrays(path, [name.removesuffix(".npy") for name in archive.namelist()])
        headers = []
        for name in ("x.npy", "y.npy"):
            with archive.open(name) as stream:
                first = np.lib.format.read_magic(stream) == (1, 0)
                later = np.lib.format.read_array_header_2_0
                header = np.lib.format.read_array_header_1_0 if first else later
                shape, _, dtype = header(stream)
                headers.append((shape, dtype))
        return tuple(headers)


def _read_npz(path: Path) -> tuple[Array, Int64Array]:
    # numpy leaves its own stream open where a file is truncated
    with _explained(path), path.open("rb") as stream:
        archive = np.load(stream, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError("not an .npz file but a single array", where=str(path))
        _check_arrays(path, archive.files)
        return archive["x"], archive["y"]


def _check_arrays(path: Path, names: Sequence[str]) -> None:
    missing = {"x", "y"} - set(names)
    if missing:
        raise DataError(
            f"the file has no array {' and no '.join(sorted(missing))}",
            where=str(path),
            seen=", ".join(sorted(names)) or "no arrays",
            expected="x (samples) and y (labels)",
            id="wrong-arrays",
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as cause:
        raise DataError(
            f"not an .npz file of plain numbers: {cause}", where=str(path), id="unreadable-data"
        ) from cause
