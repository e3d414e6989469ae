"""One model against all peers: their searches one after another, then all engines in turns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from contest import search
from contest.entries import EAGER, RTC, Peer, Setting
from contest.search import Found
from rtc.compiler.core.arrays import Array, BoolArray
from rtc.compiler.core.data import Split, Splits
from rtc.compiler.core.errors import RtcError
from rtc.compiler.core.intervals import Interval, paired_difference, wilson
from rtc.compiler.core.progress import Listener, Progress
from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.measure import statistics
from rtc.compiler.measure.comparison import Case, Comparison, Subject
from rtc.compiler.measure.latency import Bench
from rtc.compiler.measure.reference import reference_logits

_CASE = Case(LatencyMode.FORWARD, 1)
_NOTHING = Found({}, {}, 0.0, 0.0)


@dataclass(frozen=True)
class Limits:
    """What a search may take; beyond it, it has failed."""

    seconds: float = 1200.0
    memory_gb: float = 8.0


@dataclass(frozen=True)
class Row:
    """One peer on one model. Intervals are 95 % ones; fractions are between 0 and 1.

    Attributes:
        top1: on the test samples.
        drop: the float model's top-1 less this one's, on the same samples.
        agreement: how often the top class is the float model's.
        ms: median latency of a batch of 1, from inputs in place to outputs in place.
        over_eager: how many times faster than torch eager, round by round.
        ahead: this one's top-1 less rtc's, on the same samples.
        faster: rtc's latency over this one's, round by round: above 1, this one is faster.
        threads: with which it is fastest, of those it may use; 0 for what rtc chose.
        search_s, peak_mib: of the search for the engine; None where there is none.
        failure: why there are no figures, or "".
        facts: what the search tells of what it found.
    """

    model: str
    peer: str
    top1: Interval | None = None
    drop: Interval | None = None
    agreement: Interval | None = None
    ms: Interval | None = None
    over_eager: Interval | None = None
    ahead: Interval | None = None
    faster: Interval | None = None
    threads: int = 0
    search_s: float | None = None
    peak_mib: float | None = None
    failure: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Contest:
    """One model, and what happened to each peer so far.

    Attributes:
        setting: the model and the threads.
        peers: who takes part.
        data: calibration and test samples.
        limits: of each search.
        listener: told of every step.
        choose: whether each may use fewer threads where that is faster.
        found: what each search gave, by peer.
        threads: what each is timed with; 0 for what rtc chose.
        failures: why a peer is out, by name.
    """

    setting: Setting
    peers: Sequence[Peer]
    data: Splits
    limits: Limits
    listener: Listener
    choose: bool = True
    threads: dict[str, int] = field(default_factory=dict)
    found: dict[str, Found] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def rows(self, seconds: float) -> list[Row]:
        """A row for every peer; one that fails anywhere is a row with its reason.

        `seconds` is the time for all timings together.
        """
        for peer in self.peers:
            self._search(peer)
        logits, compared = self._measure(seconds)
        reference = reference_logits(self.setting.trained.model.onnx.proto, self.data.test)
        judge = _Judge(self.setting.entrant.name, self.data.test, reference, logits, compared)
        return [
            replace(judge.row(peer, self.found[peer.name]), threads=self.threads[peer.name])
            if peer.name not in self.failures
            else Row(self.setting.entrant.name, peer.name, failure=self.failures[peer.name])
            for peer in self.peers
        ]

    def _search(self, peer: Peer) -> None:
        if not peer.search:
            self.found[peer.name] = _NOTHING
            return
        stage = f"{peer.name}: search"
        self.listener.started(stage, "")
        try:
            found = search.run(
                peer.search,
                self.setting.trained.model,
                self.data.calibration,
                peer.args(self.setting),
                deadline_s=self.limits.seconds,
                memory_gb=self.limits.memory_gb,
            )
        except RtcError as error:
            self.failures[peer.name] = str(error)
            self.listener.failed(stage, str(error))
            return
        self.found[peer.name] = found
        self.listener.finished(stage, found.seconds, f"{found.peak_mib:,.0f} MiB", cached=False)

    def _measure(self, seconds: float) -> tuple[dict[str, Array], Comparison]:
        """Logits by peer, and all timings, taken in turns; of each with the best of its threads."""
        there = [peer for peer in self.peers if peer.name in self.found]
        tried = {peer.name: self._subjects(peer) for peer in there}
        with self._step("start") as progress:
            subjects = [each for them in tried.values() for each in them]
            bench = Bench(subjects, self.data.test, (_CASE.batch,), progress)
        logits: dict[str, Array] = {}
        with bench:
            with self._step("latency") as progress:
                compared = bench.time(seconds, modes=(LatencyMode.FORWARD,), progress=progress)
            best = {name: _best(them, compared) for name, them in tried.items()}
            for peer in there:
                name = best[peer.name]
                if name in bench.running:
                    with self._step(f"{peer.name}: accuracy"), suppress(RtcError):  # bench keeps it
                        logits[peer.name] = bench.logits(name, peer.batch)
            for peer in there:
                if (error := bench.failures.get(best[peer.name])) is not None:
                    self.failures[peer.name] = str(error)
        series = {peer: compared.series[_CASE].get(name) for peer, name in best.items()}
        self.threads = {peer: int(name.rpartition(" ")[2] or 0) for peer, name in best.items()}
        known = {peer: one for peer, one in series.items() if one is not None}
        return logits, Comparison({_CASE: known})

    def _subjects(self, peer: Peer) -> list[Subject]:
        """A peer with each number of threads that it may use; rtc has chosen its own."""
        found = self.found[peer.name]
        allowed = self.setting.threads
        counts = [0] if peer.name == RTC else sorted({1, allowed}) if self.choose else [allowed]
        return [
            replace(
                peer.runs(peer.name, replace(self.setting, threads=count or allowed), found),
                name=f"{peer.name}, threads {count}",
            )
            for count in counts
        ]

    @contextmanager
    def _step(self, name: str) -> Iterator[Progress]:
        begun = time.perf_counter()
        self.listener.started(name, "")
        yield lambda *told: self.listener.progressed(name, *told)
        self.listener.finished(name, time.perf_counter() - begun, "", cached=False)


def _best(subjects: Sequence[Subject], compared: Comparison) -> str:
    """The name of the fastest of one peer's subjects; of the first, where none came through."""
    there = [each.name for each in subjects if each.name in compared.series[_CASE]]
    first = subjects[0].name
    return max(there, key=lambda n: compared.speedup(n, there[0], _CASE).value, default=first)


@dataclass(frozen=True)
class _Judge:
    """Makes a peer's row of what was measured of all."""

    model: str
    test: Split
    reference: Array
    logits: dict[str, Array]
    compared: Comparison

    def row(self, peer: Peer, found: Found) -> Row:
        own, rtc = self._right(self.logits[peer.name]), self.logits.get(RTC)
        rounds = self.compared.series[_CASE][peer.name].rounds
        return Row(
            self.model,
            peer.name,
            top1=wilson(int(own.sum()), len(own)),
            drop=paired_difference(self._right(self.reference), own),
            agreement=self._agreement(self.logits[peer.name]),
            ms=statistics.ratio_by_rounds(rounds, [np.ones(1)] * len(rounds)),  # to one millisecond
            over_eager=self._speedup(peer.name, EAGER),
            ahead=None if rtc is None else paired_difference(own, self._right(rtc)),
            faster=self._speedup(peer.name, RTC),
            search_s=found.seconds if peer.search else None,
            peak_mib=found.peak_mib if peer.search else None,
            facts=found.facts,
        )

    def _right(self, logits: Array) -> BoolArray:
        right: npt.NDArray[np.bool_] = logits.argmax(axis=1) == self.test.labels
        return right

    def _agreement(self, logits: Array) -> Interval:
        same = logits.argmax(axis=1) == self.reference.argmax(axis=1)
        return wilson(int(same.sum()), len(same))

    def _speedup(self, name: str, over: str) -> Interval | None:
        there = over in self.compared.series[_CASE]
        return self.compared.speedup(name, over, _CASE) if there else None
