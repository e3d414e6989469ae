"""Runs a writer again and again, and lets it meet a fault at its first, second, … Nth system call.

A writer is forked off for every run, so that it can be killed for good. After each run the checks
of its scenario say what is wrong with what it left, and what is wrong after it has run once more.
"""

from __future__ import annotations

import errno
import os
import pathlib
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtc.compiler.core.errors import MachineError
from rtc.compiler.storage import files as durable

CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir")
KILL = "kill"
KILL_ANYTIME = "kill-anytime"

Check = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Scenario:
    """A writer, and what must hold: after any interruption, and after a run to the end."""

    prepare: Callable[[Path], None]
    act: Callable[[Path], None]
    check: Check
    check_done: Check


@dataclass
class Found:
    runs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


@dataclass
class Injector:
    """Counts system calls; at call number `at` (from then on, if `lasting`) lets `fault` happen."""

    fault: str
    at: int
    lasting: bool = False
    count: int = 0

    def arm(self) -> None:
        bound = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10 keeps its own references
        for name in CALLS:
            real = getattr(os, name)
            call = self._wrapped(name, real)
            setattr(os, name, call)
            if getattr(bound, name, None) is real:
                setattr(bound, name, staticmethod(call))
        swap = durable._rename_exchange()
        counted = self._wrapped("rename", swap)

        def exchange(one: bytes, other: bytes) -> int:
            try:
                return counted(one, other)
            except OSError as error:
                return error.errno or 0

        durable._rename_exchange = lambda: exchange

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._strikes(name, args):
                if self.fault == KILL:
                    if name == "write":
                        real(args[0], bytes(args[1])[: len(args[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                number = getattr(errno, self.fault)
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        return call

    def _strikes(self, name: str, args: tuple[Any, ...]) -> bool:
        frees = name in {"unlink", "rmdir"} or (name == "open" and not args[1] & os.O_CREAT)
        if (self.fault == "EMFILE" and name != "open") or (self.fault == "ENOSPC" and frees):
            return False
        self.count += 1
        return self.count == self.at or (self.lasting and self.count > self.at > 0)


def sweep(scenario: Scenario, root: Path, fault: str, *, lasting: bool = False) -> Found:
    """A fault at every call that the writer makes, one run each."""
    found = Found()
    calls = int(_run(scenario, root / "0", Injector(fault, 0)).removeprefix("ok "))
    for at in range(1, calls + 1):
        _judge(scenario, root / str(at), Injector(fault, at, lasting), found)
    return found


def kill_anytime(scenario: Scenario, root: Path, kills: int, seed: int) -> Found:
    """SIGKILL after a random part of the time that an undisturbed run takes, until `kills` hit."""
    dice, found = random.Random(seed), Found()
    _judge(scenario, root / "warm-up", Injector(KILL, 0), Found())
    begun = time.perf_counter()
    _run(scenario, root / "undisturbed", Injector(KILL, 0))
    whole = time.perf_counter() - begun
    while found.outcomes["killed"] < kills:
        after = dice.uniform(0, whole)
        _judge(scenario, root / str(found.runs), Injector(KILL, 0), found, kill_after=after)
    return found


def _judge(
    scenario: Scenario, root: Path, injector: Injector, found: Found, kill_after: float = 0
) -> None:
    outcome = _run(scenario, root, injector, kill_after)
    found.runs += 1
    found.outcomes[outcome.split()[0]] += 1
    problems = [outcome] if outcome.startswith("escaped") else []
    problems += scenario.check(root)
    scenario.act(root)
    problems += [f"after the rerun: {problem}" for problem in scenario.check_done(root)]
    moment = f"after {kill_after * 1e3:.2f} ms" if kill_after else f"at call {injector.at}"
    found.problems += [f"{injector.fault} {moment}: {problem}" for problem in problems]
    shutil.rmtree(root)


def _run(scenario: Scenario, root: Path, injector: Injector, kill_after: float = 0) -> str:
    """ "killed", "refused <id>" (a MachineError), "escaped <error>", or "ok <number of calls>"."""
    root.mkdir(parents=True)
    scenario.prepare(root)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        tell = os.write
        injector.arm()
        tell(writer, _outcome(scenario, root, injector).encode())
        os._exit(0)
    os.close(writer)
    if kill_after:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader) as told:
        return told.read() or "killed"


def _outcome(scenario: Scenario, root: Path, injector: Injector) -> str:
    try:
        scenario.act(root)
    except MachineError as error:
        return f"refused {error.id}"
    except BaseException as error:  # noqa: BLE001 - whatever escapes is what we look for
        return f"escaped {error!r}"
    return f"ok {injector.count}"
