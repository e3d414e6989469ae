"""A peer's search for its engine, in a process of its own: timed, and its memory watched."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split
from rtc.compiler.core.naming import load_object
from rtc.compiler.core.unit import Unit
from rtc.compiler.measure import worker
from rtc.compiler.process import sandbox

Files = Mapping[str, bytes]

MODEL = "model.onnx"
_INPUTS, _LABELS = "inputs", "labels"
_HEAD = "search.json"
_LOOK_S = 0.05  # between two looks at the memory


@dataclass(frozen=True)
class Found:
    """What a search gave: files of the engine, and facts for a reader or a worker.

    `seconds` includes importing the peer; `peak_mib` is the most that all of its processes together
    had resident.
    """

    files: Files
    facts: dict[str, Any]
    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Task:
    """What a search is given: the model and the calibration samples as the model takes them."""

    model: bytes
    inputs: npt.NDArray[np.float32]  # (N, …)
    labels: npt.NDArray[np.int64]  # (N,)
    folder: Path
    args: Mapping[str, Any]


Search = Any  # a function from a Task to (files, facts); by name, since it runs in a child


def run(
    search: str,
    model: Unit,
    calibration: Split,
    args: Mapping[str, Any],
    *,
    deadline_s: float,
    memory_gb: float,
) -> Found:
    """Run a search, named as "package.module:function", in a child process.

    Raises:
        RtcError: it failed, took longer or needed more memory than that.
    """
    heads: dict[str, Any] = {}
    contents: dict[str, bytes] = {}
    arrays: dict[str, Array] = {_INPUTS: calibration.inputs()}
    if calibration.labels is not None:
        arrays[_LABELS] = calibration.labels
    for name, array in arrays.items():
        heads[name], contents[name] = worker.packed(array)
    files = sandbox.run(
        "contest.search:child",
        files={MODEL: model.onnx.proto, **contents},
        args={"search": search, "heads": heads, "args": dict(args)},
        deadline_s=deadline_s,
        memory_gb=memory_gb,
        what=search.rpartition(":")[2],
    )
    head = json.loads(files.pop(_HEAD))
    return Found(files, head["facts"], head["seconds"], head["peak_mib"])


def child(files: Files, args: Mapping[str, Any]) -> dict[str, bytes]:
    """The child's side of `run`."""
    arrays = {n: worker.unpacked(files[n], head) for n, head in args["heads"].items()}
    with tempfile.TemporaryDirectory() as folder:
        task = Task(files[MODEL], arrays[_INPUTS], arrays[_LABELS], Path(folder), args["args"])
        begun = time.perf_counter()
        with _Memory() as memory:
            made, facts = load_object(args["search"], where="search")(task)
        seconds = time.perf_counter() - begun
    head = {"facts": facts, "seconds": seconds, "peak_mib": memory.peak / 2**20}
    return {**made, _HEAD: json.dumps(head).encode()}


class _Memory:
    """Watches this process and all that it starts; `peak` is in bytes. A context manager.

    By looking, not by `getrusage`: there a process starts with its parent's peak, and one's
    children count by the largest of them.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        import psutil

        top = psutil.Process()
        while not self._done.wait(_LOOK_S):
            total = 0
            for process in (top, *top.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
            self.peak = max(self.peak, total)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
