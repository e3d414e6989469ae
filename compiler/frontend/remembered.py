"""Digests of files that an earlier compile has read: none is read again to find it the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rtc.compiler.core.data import Split, Splits
from rtc.compiler.core.errors import DataError
from rtc.compiler.core.stamps import stamps
from rtc.compiler.storage.store import Store

_FILE = "digest.txt"


def remembered(
    store: Store | None, files: Sequence[Path], what: object, read: Callable[[], str]
) -> str:
    """The digest that `read` gives of files, or gave while they were as they are now.

    Args:
        store: where digests are kept; None to read in any case.
        files: all that `read` reads.
        what: JSON that says what it makes of them.
        read: reads them.
    """
    before = stamps(files)
    if store is None or before is None:
        return read()
    key = store.key({"digest of": what, "files": before})
    known = store.get(key)
    if known is not None:
        return known[_FILE].decode()
    digest = read()
    if stamps(files) == before:
        store.put(key, {_FILE: digest.encode()})
    return digest


@dataclass(frozen=True)
class RememberedSplits(Splits):
    """Splits of files whose digest may be known without reading them.

    What is read after that is held against it.
    """

    data: Splits
    store: Store
    files: Sequence[Path]
    what: object

    @property
    def classes(self) -> int:
        return self.data.classes

    @cached_property
    def digest(self) -> str:
        """Identifies all samples, labels and preprocessing; known from before where it may be."""
        return remembered(self.store, self.files, self.what, lambda: self.data.digest)

    @property
    def train(self) -> Split:
        return self._read.train

    @property
    def calibration(self) -> Split:
        return self._read.calibration

    @property
    def test(self) -> Split:
        return self._read.test

    @cached_property
    def _read(self) -> Splits:
        """The samples, which are those that the digest names.

        Raises:
            DataError: they were changed since it was asked for.
        """
        if self.data.digest != self.digest:
            raise DataError(
                "the samples changed since they were looked at",
                where=", ".join(map(str, self.files)),
                fix="compile again",
                id="changed-meanwhile",
            )
        return self.data
