"""A stage: one step of a compile whose result is kept in the store and taken from it next time.

A stage's key holds everything that its result depends on: its inputs' digests, its options, and the
code that does its work, rtc's and other packages'. What changes by itself (time, paths, process
ids) is in no key.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rtc.compiler.core.errors import RtcError
from rtc.compiler.core.hashing import canonical, digest
from rtc.compiler.core.progress import Listener, Nobody, Progress
from rtc.compiler.core.results import StageRow
from rtc.compiler.execution.changes import differences, outline
from rtc.compiler.recipe.own_code import code_of
from rtc.compiler.recipe.source_code import code_behind
from rtc.compiler.storage.store import Store

Files = Mapping[str, bytes]
Work = Callable[[Progress], tuple[Files, str]]
"""Does a stage's work: gives its files and one line that says what was found."""

_HEAD = "stage.json"
_FRESH = "--fresh"


@dataclass
class Stages:
    """Runs stages against one store, tells a listener, and keeps a row of each."""

    store: Store
    listener: Listener
    fresh: bool = False  # recompute everything once, and replace what the store holds
    owner: str = ""  # whose stages these are: the recipe's file
    rows: list[tuple[str, StageRow]] = field(default_factory=list)  # by target
    made: set[str] = field(default_factory=set)  # keys of what was computed here
    asked: set[tuple[str, str]] = field(default_factory=set)  # by target
    now: str = ""  # a digest of all that this compile depends on, and that of the owner's last one
    last: str = ""
    cause: tuple[str, ...] = ()  # what differs between the two

    @property
    def known(self) -> Store | None:
        """Where an earlier compile's findings are; None where all is to be done again."""
        return None if self.fresh else self.store

    def run(
        self, name: str, inputs: Any, work: Work, *, target: str = "", by: Sequence[object] = ()
    ) -> Files:
        """The files of a stage: from the store, or by doing `work`.

        Args:
            name: what the stage is called in the report.
            inputs: everything that the result depends on, JSON types.
            work: called when the store does not have the result.
            target: the device that the stage serves; "" where it serves all.
            by: what does the work and was found by a name of the recipe's (a pass, a runtime): the
                code that it stands on counts, beside that of the module that `work` is in.
        """
        code = code_of([work.__module__, *(type(named).__module__ for named in by)])
        others = code_behind(type(named) for named in by)
        key = self.store.key({"stage": name, "inputs": inputs, "code": [code, others]})
        self.listener.started(name, target)
        given = inputs if isinstance(inputs, Mapping) else {"input": inputs}
        all_inputs = {"rtc": code, **given, "code": {**others, **given.get("code", {})}}
        why = self.changed(name, all_inputs, target=target)
        with self.store.lock(key):
            again = self.fresh and key not in self.made
            kept = None if again else self.store.get(key)
            cached = kept is not None and key not in self.made
            if kept is None and why:
                self.listener.redone(name, why)
            files = self._do(name, work) if kept is None else kept
            if kept is None:
                self.store.put(key, files, replace=self.fresh)
                self.made.add(key)
        head = json.loads(files[_HEAD])
        self.rows.append((target, StageRow(name, head["seconds"], head["found"], key)))
        self.listener.finished(name, head["seconds"], head["found"], cached)
        return files

    def begin(self, target: str, inputs: Any) -> None:
        """Start on a target, whose result depends on `inputs`: what differs from the last compile
        is the cause of what is done again.
        """
        before, seen = self.store.recall(self._place("", target)), outline(inputs)
        self.now, self.last = digest(canonical(seen)), digest(canonical(before))
        self.cause = differences(before, seen) if before is not None else ()
        if self.fresh and before is not None:
            self.cause = (_FRESH,)

    def end(self, target: str, inputs: Any) -> None:
        """The target's result is there: the next compile is compared with this one."""
        self.store.remember(self._place("", target), outline(inputs))

    def changed(self, name: str, inputs: Any, *, target: str = "") -> tuple[str, ...]:
        """Why a stage is done again: which of its inputs are not what they were last time.

        Nothing where all are the same, where there was no last time, and from the second time on
        that a compile has a stage of this name: a search tries many plans. Where the stage was not
        run in the last compile, whose result was there, the cause of this one is told.
        """
        if (target, name) in self.asked:
            return ()
        self.asked.add((target, name))
        place = self._place(name, target)
        seen, before = {"of": self.now, "inputs": outline(inputs)}, self.store.recall(place)
        if seen != before:
            self.store.remember(place, seen)
        if before is None:
            return ()
        if self.fresh:
            return (_FRESH,)
        if before["inputs"] == seen["inputs"]:
            return ()
        if before["of"] != self.last:
            return self.cause
        return differences(before["inputs"], seen["inputs"], self.cause)

    def _place(self, name: str, target: str) -> str:
        return self.store.key({"owner": self.owner, "target": target, "stage": name})

    @contextmanager
    def together(self, name: str, target: str) -> Iterator[Stages]:
        """Stages that the listener hears of as one.

        In the words of the one with its name, or of the first of its own, whose names end with it,
        and of the last: what else is looked into on the way speaks for itself in the report.
        """
        part = _Part(name, self.listener)
        inner = replace(self, listener=part, rows=[])
        self.listener.started(name, target)
        try:
            yield inner
        except RtcError as error:
            self.listener.failed(name, str(error))
            raise
        finally:
            self.rows += inner.rows
        rows = [row for _, row in inner.rows]
        summary = "; ".join(dict.fromkeys(row.found for row in _telling(name, rows)))
        self.listener.finished(name, sum(row.seconds for row in rows), summary, part.cached)

    def rows_of(self, target: str) -> tuple[StageRow, ...]:
        """The stages behind a target's bundle: its own, and those that serve every target."""
        return tuple(row for served, row in self.rows if served in {"", target})

    def _do(self, name: str, work: Work) -> Files:
        def progress(done: int, total: int, found: str = "") -> None:
            self.listener.progressed(name, done, total, found)

        begun = time.perf_counter()
        files, found = work(progress)
        seconds = round(time.perf_counter() - begun, 3)
        return {**files, _HEAD: canonical({"found": found, "seconds": seconds})}


def _telling(name: str, rows: Sequence[StageRow]) -> Sequence[StageRow]:
    """The parts of a stage that tell what came of it."""
    if named := [row for row in rows if row.name == name]:
        return named
    own = {row.name: row for row in rows if row.name.endswith(f" {name}")}  # the last of each
    return [*list(own.values())[:1], *rows[-1:]] if own else [*rows[:1], *rows[-1:]]


@dataclass
class _Part(Nobody):
    """Tells a listener of stages as of parts of one."""

    whole: str
    listener: Listener
    cached: bool = True

    def progressed(self, stage: str, done: int, total: int, found: str) -> None:
        self.listener.progressed(self.whole, done, total, f"{stage}: {found}")

    def redone(self, stage: str, why: Sequence[str]) -> None:
        self.listener.redone(self.whole, why)

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        self.cached &= cached

    def warned(self, text: str) -> None:
        self.listener.warned(text)


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """The installed version of each distribution, "" where it is not installed."""
    return {name: _version(name) for name in distributions}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
