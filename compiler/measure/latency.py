"""Latency of several subjects against each other: each in its own process, taking turns.

A `Bench` starts a process for every subject and stops all but the one whose turn it is, so that
no runtime's spinning threads disturb another's timing. It goes round after round through every
subject at every mode and batch, in a new random order, timing a short slice of each: what else the
machine does meanwhile falls on all alike, and figures of different modes may be compared. The first
round only warms up. A subject that does not start, or fails on the way, is left out with its error;
the others go on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from rtc.compiler.core.arrays import Array, Float64Array, Int64Array
from rtc.compiler.core.closing import Closing
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import RtcError
from rtc.compiler.core.progress import Progress, silent
from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.measure import fidelity, worker
from rtc.compiler.measure.comparison import MODES, Case, Comparison, Series, Subject
from rtc.compiler.measure.fidelity import Probe
from rtc.compiler.process.sandbox import Worker

ROUNDS = 15  # at least; the first is not counted. Fewer make a bootstrap's interval too narrow
SLICE_S = (0.005, 0.03)  # shortest and longest time of one subject's turn
_START_S = 120.0
_ANSWER_S = 300.0
_TIMED_BATCHES = 4  # different batches that "end-to-end" goes through
_SENT = 64  # samples that a process is sent at once, if they are whole batches
_LONG_MS = 50.0  # an inference that needs no other before it


class Bench(Closing):
    """Subjects in processes of their own, stopped unless it is their turn. A context manager.

    Args:
        subjects: with different names.
        split: raw samples to infer and to time on.
        batches: the batches that will be timed.
        progress: told of every start.

    Attributes:
        failures: why a subject is out, by name.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        split: Split,
        batches: Sequence[int],
        progress: Progress = silent,
    ) -> None:
        self.failures: dict[str, RtcError] = {}
        self._workers: dict[str, Worker] = {}
        self._split = split
        self._batches = tuple(dict.fromkeys(batches))
        head, self._content = worker.packed(split.raw[: _TIMED_BATCHES * max(batches)])
        self._samples = head | {"preprocess": asdict(split.preprocess)}
        try:
            for done, subject in enumerate(subjects):
                progress(done, len(subjects), f"starting {subject.name}")
                self.start(subject)
        except BaseException:
            self.close()
            raise

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the subjects that have not failed."""
        return tuple(self._workers)

    def start(self, subject: Subject) -> None:
        """Start one more subject; one that does not start, or is wrong, is among the failures."""
        try:
            started = Worker(
                subject.entry,
                files={**subject.files, worker.SAMPLES: self._content},
                args={**subject.args, worker.SAMPLES: self._samples},
                what=subject.name,
                deadline_s=_START_S,
                memory_gb=subject.memory_gb,
            )
        except RtcError as error:
            self.failures[subject.name] = error
            return
        started.pause()
        self._workers[subject.name] = started
        if subject.probe is not None:
            with suppress(RtcError):  # it is among the failures
                self.hold(subject.name, subject.probe)

    def ask(
        self,
        name: str,
        request: Mapping[str, Any],
        files: Mapping[str, bytes],
        timeout_s: float = _ANSWER_S,
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Let one subject run for one request.

        Raises:
            RtcError: the subject's own failure; it is out from then on.
        """
        process = self._workers[name]
        process.resume()
        try:
            answer = process.ask(request, files, timeout_s=timeout_s)
        except RtcError as error:
            self.failures[name] = error
            self._workers.pop(name).close()
            raise
        process.pause()
        return answer

    def logits(self, name: str, batch: int) -> Array:
        """A subject's first output for every sample of the split, `batch` at a time.

        Raises:
            RtcError: the subject's own failure; it is out from then on.
        """
        return self._infer(name, self._split, batch)

    def hold(self, name: str, known: Probe) -> None:
        """Hold a subject against what its graph gives in the reference, at every batch.

        Raises:
            BuilderError: it computes something else ("engine-differs"); it is out.
            RtcError: the subject's own failure; it is out.
        """
        files = {fidelity.FILE: fidelity.packed(known)}
        for batch in self._batches:
            try:
                self.ask(name, {"op": "hold", "batch": batch}, files)
            except RtcError as error:
                self.failures[name] = error
                if name in self._workers:
                    self._workers.pop(name).close()
                raise

    def _infer(self, name: str, split: Split, batch: int) -> Array:
        parts = []
        for inputs in split.batches(batch * max(1, _SENT // batch)):
            head, content = worker.packed(inputs)
            request = {"op": "infer", "inputs": head, "batch": batch}
            reply, files = self.ask(name, request, {"inputs": content})
            parts.append(worker.unpacked(files["logits"], reply["logits"]))
        return np.concatenate(parts)

    def time(
        self,
        seconds: float,
        *,
        modes: Sequence[LatencyMode] = MODES,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Comparison:
        """Time every running subject in every mode at every batch.

        Args:
            seconds: time for all timings together, warm-up apart. It is overrun where `ROUNDS` of
                single inferences take longer: no subject gets less than one per round.
            modes: what is timed.
            seed: of the order of turns.
            progress: told of every round.
        """
        cases = [Case(mode, batch) for mode in modes for batch in self._batches]
        turns = max(1, len(cases) * len(self._workers))
        slice_s = min(max(seconds / (turns * ROUNDS), SLICE_S[0]), SLICE_S[1])
        rounds = max(ROUNDS, round(seconds / (turns * slice_s)))
        order = random.Random(seed)  # noqa: S311 - an order of turns is no secret
        series: dict[Case, dict[str, Series]] = {case: {} for case in cases}

        def go_round() -> None:
            pairs = [(case, name) for case in cases for name in self.running]
            for case, name in order.sample(pairs, len(pairs)):
                if name in self._workers:  # it may have failed in this very round
                    self._slice(name, case, series[case], slice_s)

        progress(0, rounds + 1, "warm-up")
        go_round()
        begun = time.monotonic()
        for number in range(1, rounds + 1):
            if number > ROUNDS and time.monotonic() - begun > seconds:
                break  # inferences take longer than a slice
            progress(number, rounds + 1, f"round {number} of {rounds}")
            go_round()
        return Comparison(
            {
                case: {n: series[case][n] for n in self.running if n in series[case]}
                for case in cases
            }
        )

    def typical_ms(self, name: str, case: Case) -> float:
        """Milliseconds of a batch, roughly: the median of three.

        Raises:
            RtcError: the subject's own failure; it is out from then on.
        """
        return float(np.median(self._timed(name, case, 1, 3)))

    def refuse_failures(self) -> None:
        """Where every subject has to come through.

        Raises:
            RtcError: the first failure there was.
        """
        for error in self.failures.values():
            raise error

    def close(self) -> None:
        """End every process."""
        for each in self._workers.values():
            each.close()
        self._workers.clear()

    def _slice(self, name: str, case: Case, them: dict[str, Series], slice_s: float) -> None:
        """One subject's turn: its first opens the series and warms up, each later one counts."""
        try:
            if name not in them:
                first = float(self._timed(name, case, 0, 1)[0])
                them[name] = Series(first, last=self._timed(name, case, 1, 3))
                them[name].last = self._timed(name, case, 0, _count(them[name].last, slice_s))
                return
            series = them[name]
            count = _count(series.last, slice_s)
            series.last = self._timed(name, case, _warmup(series.last, count), count)
            series.rounds.append(series.last)
        except RtcError:
            return  # `ask` has taken it out and keeps its error

    def _timed(self, name: str, case: Case, warmup: int, iterations: int) -> Float64Array:
        """Milliseconds of each of `iterations`."""
        request = {"op": "time", "warmup": warmup, "iterations": iterations, **asdict(case)}
        reply, files = self.ask(name, request, {})
        nanoseconds: Int64Array = worker.unpacked(files["times"], reply["times"])
        return nanoseconds / 1e6


def _count(times_ms: Float64Array, slice_s: float) -> int:
    """How many inferences fill a slice."""
    return max(1, round(1e3 * slice_s / float(times_ms.mean())))


def _warmup(times_ms: Float64Array, count: int) -> int:
    """Inferences before a slice counts: what refills the caches hardly shows in a long one."""
    return 0 if times_ms.mean() > _LONG_MS else max(1, count // 10)
