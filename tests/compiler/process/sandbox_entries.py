"""What test_sandbox.py runs in child processes: each function does one thing that goes wrong."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtc.compiler.core.errors import ModelError

Files = Mapping[str, bytes]
Args = Mapping[str, Any]


def reverse(files: Files, args: Args) -> dict[str, bytes]:
    return {name + args["suffix"]: content[::-1] for name, content in files.items()}


def where(files: Files, args: Args) -> dict[str, bytes]:
    return {"pid": str(os.getpid()).encode(), "group": str(os.getpgid(0)).encode()}


def segfault(files: Files, args: Args) -> dict[str, bytes]:
    ctypes.string_at(0)
    return {}


def abort(files: Files, args: Args) -> dict[str, bytes]:
    os.write(2, b"assertion failed: rank == 4\n")
    os.abort()


def hang(files: Files, args: Args) -> dict[str, bytes]:
    """Starts a process of its own, tells both ids, and sleeps."""
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(args["pids"]).write_text(f"{os.getpid()} {grandchild.pid}")
    time.sleep(600)
    return {}


def hog(files: Files, args: Args) -> dict[str, bytes]:
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 16)


def too_large(files: Files, args: Args) -> dict[str, bytes]:
    return {"": bytearray(1 << 60)}


def killed(files: Files, args: Args) -> dict[str, bytes]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def leave(files: Files, args: Args) -> dict[str, bytes]:
    sys.exit(3)


def leave_a_child_behind(files: Files, args: Args) -> dict[str, bytes]:
    """Forks a process that holds the channel open, and dies."""
    if os.fork() == 0:
        time.sleep(600)
    os._exit(5)


def chatter(files: Files, args: Args) -> dict[str, bytes]:
    os.write(1, b"native noise on descriptor 1\n")
    print("noise on sys.stdout", flush=True)  # noqa: T201 - the noise is the point
    return {"said": b"this alone"}


def refuse(files: Files, args: Args) -> dict[str, bytes]:
    raise ModelError("two ops are unknown", where="model.onnx", seen="Foo, Bar", id="unknown-op")


def stumble(files: Files, args: Args) -> dict[str, bytes]:
    raise ZeroDivisionError("a scale of\nzero")


class Counter:
    """Counts what it is asked, and spins a thread's worth of time when told to."""

    def __init__(self, files: Files, args: Args) -> None:
        self.total = args["start"]

    def ask(self, request: dict[str, Any], files: Files) -> tuple[dict[str, Any], dict[str, bytes]]:
        if request.get("crash"):
            ctypes.string_at(0)
        if request.get("refuse"):
            raise ModelError("no such thing")
        self.total += request.get("add", 0)
        return {"total": self.total, "pid": os.getpid()}, {n: c * 2 for n, c in files.items()}
