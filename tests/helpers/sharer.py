"""One of several processes on one store: makes or takes each result, and tells what it got.

python sharer.py ROOT ROUNDS    prints the warnings, then a digest of all results, as JSON
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from rtc.compiler.storage.store import Store


def make(root: Path, turn: int) -> dict[str, bytes]:
    """A result; that it was made is noted beside the store, by one write that nothing tears."""
    note = os.open(root / "made", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(note, f"{turn}\n".encode())
    os.close(note)
    return {"a.bin": bytes([turn % 256]) * 50_000, "b.json": b"{}"}


def main(root: Path, rounds: int) -> None:
    warnings: list[str] = []
    store = Store(root / "store", warnings.append)
    total = hashlib.sha256()
    for turn in range(rounds):
        shared = store.key({"é": turn, "b": [1.5, None, True], "a": "stage"})
        with store.lock(shared):
            result = store.get(shared)
            if result is None:
                store.put(shared, make(root, turn))
                result = store.get(shared)
        assert result is not None
        raced = store.key({"raced": turn})  # everybody writes it, and nobody waits
        store.put(raced, result, replace=turn % 2 == 1)
        for found in (result, store.get(raced)):
            assert found is not None
            total.update(shared.encode() + found["a.bin"])
    print(json.dumps({"digest": total.hexdigest(), "warnings": warnings}))  # noqa: T201 - the answer


main(Path(sys.argv[1]), int(sys.argv[2]))
