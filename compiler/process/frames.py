"""Frames between a process and its child: a JSON head and named blobs over one socket. No pickle.

A frame is the head's length (8 bytes, big-endian), the head as JSON, then each blob as raw bytes;
the head tells the blobs' names and sizes.
"""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

_LENGTH = struct.Struct("!Q")

Patience = Callable[[], float | None]
"""Asked while nothing moves: seconds to wait before it is asked again, None for as long as it
takes. Raises to give up."""


def for_ever() -> None:
    """The patience of a child, whose parent may take its time."""


class Channel:
    """One end of a socket pair."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(
        self, head: Mapping[str, Any], files: Mapping[str, bytes], patience: Patience = for_ever
    ) -> None:
        """Send one frame.

        Raises:
            ConnectionError: the other end is closed.
        """
        sizes = [[name, len(content)] for name, content in files.items()]
        text = json.dumps({"head": dict(head), "files": sizes}).encode()
        for part in (_LENGTH.pack(len(text)) + text, *files.values()):
            rest = memoryview(part)
            while rest:
                self._wait(select.POLLOUT, patience)
                try:
                    rest = rest[self._socket.send(rest, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    continue  # room for less than the kernel wants to take at once

    def receive(self, patience: Patience = for_ever) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The next frame.

        Raises:
            EOFError, ConnectionError: the other end is closed.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, patience))
        frame = json.loads(self._read(length, patience))
        return frame["head"], {name: self._read(size, patience) for name, size in frame["files"]}

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _read(self, size: int, patience: Patience) -> bytes:
        content = bytearray(size)
        rest = memoryview(content)
        while rest:
            self._wait(select.POLLIN, patience)
            count = self._socket.recv_into(rest, 0, socket.MSG_DONTWAIT)
            if not count:
                raise EOFError("the other end is closed")
            rest = rest[count:]
        return bytes(content)

    def _wait(self, event: int, patience: Patience) -> None:
        poller = select.poll()
        poller.register(self._socket, event)
        ready = poller.poll(0)
        while not ready:
            seconds = patience()
            ready = poller.poll(None if seconds is None else 1000 * seconds)
