"""Progress of a command's single long step, on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rtc.compiler.core.errors import RtcError
from rtc.compiler.core.progress import Listener, Nobody, Progress


def watched(quiet: bool) -> AbstractContextManager[Listener]:
    """Who watches a command: the terminal, or nobody."""
    if quiet:
        return nullcontext(Nobody())
    from rtc.compiler.cli.progress import TerminalListener

    return TerminalListener()


@contextmanager
def step(name: str, quiet: bool) -> Iterator[Progress]:
    """Show one step while it runs, and the time that it took."""
    with watched(quiet) as listener, step_of(listener, name) as progress:
        yield progress


@contextmanager
def step_of(listener: Listener, name: str) -> Iterator[Progress]:
    """The same, for a command that is watched already.

    A step that fails ends the command, whose last line is the error: it is not told twice.
    """
    begun = time.perf_counter()
    listener.started(name, "")
    try:
        yield lambda done, total, found="": listener.progressed(name, done, total, found)
    except RtcError:
        listener.failed(name, "")
        raise
    listener.finished(name, time.perf_counter() - begun, "", cached=False)
