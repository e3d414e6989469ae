"""Work in a child process, with a deadline and a memory limit: a crash or a hang is an error here.

`run` calls one function in a child. `Worker` keeps a child that answers requests, and that can be
stopped in between, so that the spinning threads of one runtime never disturb the timing of another.

The child is the same interpreter with the same `sys.path`, in a session of its own. It is killed
with its whole process group when its parent is done with it, and by the kernel when the thread that
started it dies (so start children from a thread that outlives them). What it writes to its standard
output and error goes to a file of ours. Linux only.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtc.compiler.core.closing import Closing
from rtc.compiler.core.errors import BuilderError, InternalError, MachineError, RtcError, from_dict
from rtc.compiler.process.frames import Channel

# `-m` and a script's path would both put a folder in front of sys.path, whose files could then
# shadow modules that the parent sees; so the parent's own path is set before the first import.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from rtc.compiler.process.sandbox_child import main; main()"
)
_GLANCE_S = 0.05  # between two looks at a child's memory
_GLANCE_UNLIMITED_S = 0.5  # where only its end is looked for: a child being timed is left in peace
_LOG_TAIL = 4096  # bytes


class ChildOutput(Exception):  # noqa: N818 - not an error of its own: what stood behind one
    """The end of what a child wrote, or its traceback; the `__cause__` of the error raised here."""


def run(
    entry: str,
    *,
    files: Mapping[str, bytes],
    args: Mapping[str, Any],
    deadline_s: float,
    memory_gb: float | None = None,
    what: str,
) -> dict[str, bytes]:
    """Call `entry(files, args)`, which gives named blobs back, in a child process.

    Args:
        entry: "package.module:function".
        files: named blobs for it.
        args: JSON types for it.
        deadline_s: seconds after which the child and all that it started are killed.
        memory_gb: private resident memory, in GB (1e9 bytes), above which they are killed.
        what: what the child does, as an error's first words: "the TensorRT-RTX build".

    Raises:
        RtcError: as the entry raised it.
        BuilderError: the child crashed (id "crashed"), overran its deadline ("deadline"), or the
            entry raised anything else ("failed").
        MachineError: it needed more memory than there is, or than `memory_gb` ("out-of-memory").
    """
    with _Child(what, memory_gb) as child:
        head = {"entry": entry, "args": dict(args), "what": what, "stays": False}
        return child.exchange(head, files, deadline_s)[1]


class Worker(Closing):
    """A child that stays: `entry(files, args)` gives the object whose `ask` answers requests.

    Args and errors are those of `run`; `deadline_s` is for getting ready. A context manager.
    """

    def __init__(
        self,
        entry: str,
        *,
        files: Mapping[str, bytes],
        args: Mapping[str, Any],
        what: str,
        deadline_s: float = 120.0,
        memory_gb: float | None = None,
    ) -> None:
        self._child = _Child(what, memory_gb)
        head = {"entry": entry, "args": dict(args), "what": what, "stays": True}
        try:
            self._child.exchange(head, files, deadline_s)
        except BaseException:
            self.close()
            raise

    def ask(
        self,
        request: Mapping[str, Any],
        files: Mapping[str, bytes] | None = None,
        *,
        timeout_s: float,
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """One request and its answer, within `timeout_s`.

        After an error that the child raised it can be asked on; after any other it is gone.
        """
        return self._child.exchange(request, files or {}, timeout_s)

    def pause(self) -> None:
        """Stop every thread of the child, spinning ones too, until `resume`."""
        self._child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the child go on."""
        self._child.signal(signal.SIGCONT)

    def close(self) -> None:
        """End the child. Nothing of it outlives this call; calling it again does nothing."""
        self._child.close()


class _Child(Closing):
    """The process, its channel and its log."""

    def __init__(self, what: str, memory_gb: float | None) -> None:
        self._what = what
        self._memory_gb = memory_gb
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child; `end` closes it
        mine, its = socket.socketpair()
        self._channel = Channel(mine)
        command = [sys.executable, "-c", _BOOT, str(its.fileno()), str(os.getpid()), *sys.path]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, running our own module
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(its.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            mine.close()
            self._log.close()
            reason = f"{what} could not start a process"
            raise MachineError(reason, seen=str(error.strerror), id="no-process") from error
        finally:
            its.close()

    def exchange(
        self, head: Mapping[str, Any], files: Mapping[str, bytes], deadline_s: float
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Send one frame and wait for its answer, within the limits.

        An error that the child raised leaves it running; any other ends it.
        """
        if self._process.returncode is not None:
            raise InternalError(f"{self._what} has ended and cannot be asked")
        limits = _Limits(self._what, self._process.pid, deadline_s, self._memory_gb)
        try:
            self._channel.send(head, files, limits)
            reply, blobs = self._channel.receive(limits)
        except (EOFError, ConnectionError):
            error, output = self._death()
            raise error from output
        except BaseException:
            self.close()
            raise
        if "error" in reply:
            raise from_dict(reply["error"]) from ChildOutput(reply["traceback"])
        return reply["value"], blobs

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole group. The leader is not reaped before `end`, so the id is still its."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Kill the group and reap the child."""
        self.signal(signal.SIGKILL)
        self._process.wait()
        self._channel.close()
        self._log.close()

    def _death(self) -> tuple[RtcError, ChildOutput]:
        """Why the child went away by itself, and what it said last."""
        give_up = time.monotonic() + 5.0
        while not _has_ended(self._process.pid) and time.monotonic() < give_up:
            time.sleep(0.01)  # its end of the channel closes a moment before it is a zombie
        tail = self._tail()
        self.close()
        status = self._process.returncode
        if status == -signal.SIGKILL:
            reason = f"{self._what} was killed, as the system does when memory runs out"
            return MachineError(reason, id="out-of-memory"), ChildOutput(tail)
        if status < 0:
            how = f"crashed with {signal.Signals(-status).name}"
        else:
            how = f"exited with status {status}"
        said = tail.partition("Fatal Python error:")[0].strip().splitlines()
        error = BuilderError(f"{self._what} {how}", seen=said[-1] if said else "", id="crashed")
        return error, ChildOutput(tail)

    def _tail(self) -> str:
        """The end of the log."""
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _LOG_TAIL, max(0, size - _LOG_TAIL))
        return tail.decode(errors="replace")


class _Limits:
    """The patience of a parent: asked while a child works, it raises once a limit is passed."""

    def __init__(self, what: str, pid: int, deadline_s: float, memory_gb: float | None) -> None:
        self._what = what
        self._pid = pid
        self._deadline_s = deadline_s
        self._memory_gb = memory_gb
        self._end = time.monotonic() + deadline_s

    def __call__(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            reason = f"{self._what} did not finish within {self._deadline_s:g} s"
            raise BuilderError(reason, id="deadline")
        if _has_ended(self._pid):  # a process that it started may still hold the channel open
            raise EOFError
        if self._memory_gb is None:
            return min(left, _GLANCE_UNLIMITED_S)
        if (used := _private_memory_gb(self._pid)) > self._memory_gb:
            raise MachineError(
                f"{self._what} ran out of memory",
                seen=f"{used:.2f} GB",
                expected=f"at most {self._memory_gb:g} GB",
                id="out-of-memory",
            )
        return min(left, _GLANCE_S)


def _has_ended(pid: int) -> bool:
    """Whether the child is a zombie; it is left one, so that its group's id stays taken."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _private_memory_gb(pid: int) -> float:
    """Resident pages that are not shared with files, in GB (proc(5), statm: resident - shared)."""
    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 1e9
