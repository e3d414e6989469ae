"""The child's side of `process.sandbox`: calls an entry, or keeps an object that answers.

Everything that goes out passes through the channel; file descriptors 1 and 2 are the log file that
the parent opened, whatever a library prints.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

from rtc.compiler.core.errors import BuilderError, MachineError, RtcError
from rtc.compiler.core.naming import load_object
from rtc.compiler.process.frames import Channel

_PR_SET_PDEATHSIG = 1

Reply = tuple[Mapping[str, Any], Mapping[str, bytes]]


class Answering(Protocol):
    """What a worker's entry returns."""

    def ask(self, request: dict[str, Any], files: Mapping[str, bytes]) -> Reply:
        """Answer one request: JSON types and named blobs, both ways."""


def main() -> None:
    """Serve one parent. `argv`: the channel's descriptor, the parent's process id, its sys.path."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    faulthandler.enable()  # the log then ends in the Python stack of a native crash
    os.set_inheritable(descriptor, False)
    serve(Channel(socket.socket(fileno=descriptor)))


def serve(channel: Channel) -> None:
    """Do what the first frame says: one call, or answer frames until the parent closes its end."""
    head, files = channel.receive()
    what = head["what"]

    def enter() -> Any:
        return load_object(head["entry"], where=what)(files, head["args"])

    if not head["stays"]:
        _answer(channel, what, lambda: ({}, enter()))
        return
    try:
        kept: Answering = enter()
    except Exception as error:  # noqa: BLE001 - every failure crosses to the parent, which raises it
        channel.send(_failure(error, what), {})
        return
    channel.send({"value": {}}, {})
    for request, sent in _frames(channel):
        _answer(channel, what, partial(kept.ask, request, sent))


def _frames(channel: Channel) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            yield channel.receive()


def _answer(channel: Channel, what: str, work: Callable[[], Reply]) -> None:
    """Send what `work` returns, or the error that it raises."""
    try:
        value, files = work()
    except Exception as error:  # noqa: BLE001 - every failure crosses to the parent, which raises it
        channel.send(_failure(error, what), {})
    else:
        channel.send({"value": dict(value)}, files)


def _failure(error: Exception, what: str) -> dict[str, Any]:
    return {"error": _described(error, what).to_dict(), "traceback": traceback.format_exc()}


def _described(error: Exception, what: str) -> RtcError:
    if isinstance(error, RtcError):
        return error
    if isinstance(error, MemoryError):
        return MachineError(f"{what} ran out of memory", id="out-of-memory")
    lines = str(error).strip().splitlines() or [""]
    return BuilderError(f"{what} failed", seen=f"{type(error).__name__}: {lines[0]}", id="failed")


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however that comes about."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
