"""A stage: one step of a compile whose result is kept in the store and taken from it next time.

A stage's key holds everything that its result depends on: its inputs' digests, its options, and the
code of rtc itself. Nothing that changes by itself (time, paths, process ids) is in a key.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rtc.compiler.core.errors import RtcError
from rtc.compiler.core.hashing import canonical, file_digest
from rtc.compiler.core.naming import REFERENCE
from rtc.compiler.core.progress import Listener, Progress
from rtc.compiler.report.model import StageRow
from rtc.compiler.store import Store

Files = Mapping[str, bytes]
Work = Callable[[Progress], tuple[Files, str]]
"""Does a stage's work: gives its files and one line that says what was found."""

_HEAD = "stage.json"


@dataclass
class Stages:
    """Runs stages against one store, tells a listener, and keeps a row of each."""

    store: Store
    listener: Listener
    fresh: bool = False  # recompute everything, and replace what the store holds
    rows: list[tuple[str, StageRow]] = field(default_factory=list)  # by target
    _group: str = ""
    _all_kept: bool = True

    def run(self, name: str, inputs: Any, work: Work, *, target: str = "") -> Files:
        """The files of a stage: from the store, or by doing `work`.

        Args:
            name: what the stage is called in the report.
            inputs: everything that the result depends on, JSON types.
            work: called when the store does not have the result.
            target: the device that the stage serves; "" where it serves all.
        """
        key = self.store.key({"stage": name, "inputs": inputs, "code": code_digest()})
        if not self._group:
            self.listener.started(name, target)
        with self.store.lock(key):
            kept = None if self.fresh else self.store.get(key)
            files = self._do(name, work) if kept is None else kept
            if kept is None:
                self.store.put(key, files, replace=self.fresh)
        head = json.loads(files[_HEAD])
        self.rows.append((target, StageRow(name, head["seconds"], head["found"], key)))
        if self._group:
            self._all_kept &= kept is not None
        else:
            self.listener.finished(name, head["seconds"], head["found"], kept is not None)
        return files

    @contextmanager
    def together(self, name: str, target: str) -> Iterator[None]:
        """Tell the listener of the stages inside as of one, in the words of the first and last."""
        first = len(self.rows)
        self._group, self._all_kept = name, True
        self.listener.started(name, target)
        found = ""
        try:
            yield
        except RtcError as error:
            found = f"failed: {error}"
            raise
        finally:
            self._group = ""
            rows = [row for _, row in self.rows[first:]]
            seconds = sum(row.seconds for row in rows)
            found = found or "; ".join(row.found for row in rows[:1] + rows[-1:])
            self.listener.finished(name, seconds, found, self._all_kept)

    def rows_of(self, target: str) -> tuple[StageRow, ...]:
        """The stages behind a target's bundle: its own, and those that serve every target."""
        return tuple(row for served, row in self.rows if served in {"", target})

    def _do(self, name: str, work: Work) -> Files:
        def progress(done: int, total: int, found: str = "") -> None:
            label = f"{name}: {found}" if self._group else found
            self.listener.progressed(self._group or name, done, total, label)

        begun = time.perf_counter()
        files, found = work(progress)
        seconds = round(time.perf_counter() - begun, 3)
        return {**files, _HEAD: canonical({"found": found, "seconds": seconds})}


@functools.cache
def code_digest() -> str:
    """A digest of rtc's own source: a result made by other code is another result."""
    total = hashlib.sha256()
    for package in ("compiler", "passes", "calibration", "targets", "recipes"):
        for file in sorted(_folder(f"rtc.{package}").rglob("*.py")):
            total.update(f"{package}/{file.name}\0{file_digest(file)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is part of rtc"
    assert spec.origin is not None, f"{package} has a file"
    return Path(spec.origin).parent


def referenced_code(value: Any) -> dict[str, str]:
    """Digests of the modules that a JSON value refers to as "package.module:name".

    A recipe may name a model of the user's own; when its source changes, so does the key.
    """
    found: dict[str, str] = {}
    if isinstance(value, Mapping):
        for item in value.values():
            found |= referenced_code(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            found |= referenced_code(item)
    elif isinstance(value, str) and REFERENCE.match(value):
        module = value.partition(":")[0]
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            return found
        if spec is not None and spec.origin is not None:
            found[module] = file_digest(Path(spec.origin))
    return found


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """The installed version of each distribution, "" where it is not installed."""
    return {name: _version(name) for name in distributions}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
