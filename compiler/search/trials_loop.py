"""The search for a precision plan: predict by a programme, try on the real engine, learn, go on.

float, all INT8, every other layer, the rules   tried first: they show what everything takes
the fastest assignment in a budget of noise     tried; its times correct the programme's
    it passes the gates  → the budget may be larger; done when the same plan comes back
    it does not          → the budget must be smaller: bisection, on a logarithmic scale

Gates are looked at on calibration samples: the test set stays for the report. Each trial is a stage
of its own, so a search that was stopped goes on where it was, and one with a longer budget takes
over what the shorter one found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from rtc.compiler.core import limits
from rtc.compiler.core.errors import BuilderError, MachineError, ModelError
from rtc.compiler.core.evidence import Evidence, Measured
from rtc.compiler.core.precision import PrecisionPlan
from rtc.compiler.core.results import AccuracyRow
from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.measure.accuracy import better_than_guessing
from rtc.compiler.recipe.sections import Gates, Objective
from rtc.compiler.search.assignment import Assignment, fastest, most_accurate
from rtc.compiler.search.parts import Shares
from rtc.compiler.search.programme import Space, Times, Ways
from rtc.compiler.search.trial import Lab, Outcome

_CLOSE = 1.3  # the ratio of two noise budgets that are not worth telling apart
_AS_FAST = 1.01  # times that are not worth telling apart: the plan with less noise is taken
_MOST_TRIALS = 24
_PATIENCE = 3  # plans in a row that were no faster than the best, though predicted to be
_FLOAT = frozenset({"fp32", "half", "keep-half"})
_FLOOR = 1e-8  # noise, as a fraction of the signal, that no gate sees


@dataclass(frozen=True)
class Trial:
    """One plan that was tried. `noise` and `predicted_us` are what was expected of it."""

    name: str
    choice: Ways
    plan: PrecisionPlan
    noise: float
    predicted_us: float | None
    outcome: Outcome
    passed: bool


@dataclass(frozen=True)
class SearchResult:
    """What a search came to, and whether it ended by itself, before its time was up."""

    best: Trial
    trials: tuple[Trial, ...]
    times: Times
    ended: bool


@dataclass(frozen=True)
class Goal:
    """What a plan must keep on the calibration samples, and what it is chosen for.

    Attributes:
        objective: "latency", or "accuracy" within `latency_ms`.
        gates: what the recipe asks of an engine.
        latency_ms: of a batch, end to end, as the gates have it; None where they do not.
    """

    objective: Objective
    gates: Gates
    latency_ms: float | None = None

    def passes(self, outcome: Outcome) -> bool:
        """Whether a plan's outcome keeps the gates of accuracy, and a strict contract."""
        if not outcome.finite or (self.gates.contract == "strict" and not outcome.as_planned):
            return False
        drop, parity = self.gates.top1_drop, self.gates.parity
        if drop is not None and not limits.at_most(outcome.lost, drop):
            return False
        if parity is not None and not limits.at_least(outcome.agreement.value, parity):
            return False
        return outcome.quality is None or self._good_enough(outcome.quality)

    def _good_enough(self, quality: AccuracyRow) -> bool:
        """Whether it keeps the gates that know no other model."""
        top1, loss = self.gates.top1, self.gates.loss
        kept = top1 is None or limits.at_least(_figure(quality.top1), top1)
        kept = kept and (loss is None or _figure(quality.loss) <= loss)
        chance = self.gates.chance
        return kept and (chance is None or better_than_guessing(quality, chance) is not False)

    def within_reach(self, lost: float, quality: AccuracyRow | None) -> Goal:
        """The goal where these are the float model's: no plan is asked for more than it has itself.

        The gates are judged on other samples; on a few of these the float model may just miss what
        it keeps there.
        """
        asked = self.gates
        reached: dict[str, float | None] = {}
        if asked.top1_drop is not None:
            reached["top1_drop"] = max(asked.top1_drop, lost)
        if quality is not None and asked.top1 is not None:
            reached["top1"] = min(asked.top1, _figure(quality.top1))
        if quality is not None and asked.loss is not None:
            reached["loss"] = max(asked.loss, _figure(quality.loss))
        if quality is not None and better_than_guessing(quality, asked.chance or 0.0) is False:
            reached["chance"] = None
        return replace(self, gates=asked.model_copy(update=reached))

    @property
    def modes(self) -> tuple[LatencyMode, ...]:
        """What trials have to time."""
        return (
            (LatencyMode.FORWARD,)
            if self.latency_ms is None
            else (LatencyMode.FORWARD, LatencyMode.END_TO_END)
        )

    def in_time(self, outcome: Outcome) -> bool:
        """Whether the latency is kept; off the device, forward only is all that can be told."""
        known = outcome.end_to_end or outcome.latency
        return self.latency_ms is None or (known is not None and known.value <= self.latency_ms)


def _figure(evidence: Evidence) -> float:
    assert isinstance(evidence, Measured), "the quality of a trial is measured"
    return evidence.value


@dataclass
class Searcher:
    """One search on one runtime.

    Attributes:
        lab: where plans are tried.
        space: what there is to choose.
        goal: what a plan is tried for.
        seconds: when to stop, from `begun` on. No plan is tried that would end later, as far as the
            ones before it tell.
        least: how many plans are tried before that counts.
        begun: on the monotonic clock; what came before the search may count.
    """

    lab: Lab
    space: Space
    goal: Goal
    seconds: float
    least: int = 1
    times: Times = field(default_factory=Times)
    trials: list[Trial] = field(default_factory=list)
    refused: list[Ways] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    took_s: float = 0.0  # the longest trial but the first, which starts the processes

    def run(self, rules: Callable[[], Ways]) -> SearchResult:
        """Search until nothing new comes up, or the time is over.

        Args:
            rules: gives the choice that is made without a search; where there is time, it is tried
                as well.

        Raises:
            RtcError: not even the float plan could be tried.
        """
        first = self._first(rules)
        while self._more():
            step = next(first, None)
            if step is None or not self._more():  # asking for the rules takes time, too
                break
            self._try(*step)
        accuracy = self.goal.objective == "accuracy"
        ended = self._for_accuracy() if accuracy else self._for_latency()
        return SearchResult(self._best(), tuple(self.trials), self.times, ended)

    def _first(self, rules: Callable[[], Ways]) -> Iterator[tuple[str, Ways]]:
        """Choices that show every part in each precision, and every conversion."""
        offers = {name: self.space.offers[name] for name in self.space.chosen}
        floats = {name: offered[0] for name, offered in offers.items()}
        most = {name: offered[-1] for name, offered in offers.items()}
        wide = {n: "fp32" if "fp32" in offered else floats[n] for n, offered in offers.items()}
        adds = {name: floats[name] for name in self.space.adds}
        layers = [name for name in offers if name not in adds]
        turns = [
            {name: (most if name in layers[first::2] else floats)[name] for name in offers}
            for first in (0, 1)
        ]
        yield "float" if _FLOAT.issuperset(floats.values()) else "pins alone", floats
        yield "all fp32", wide
        yield "all int8", most
        yield "all int8 but residual sums", most | adds
        yield "all int8, sums otherwise", most | dict(self.space.also)
        yield "every other layer", turns[0]
        yield "the layers between", turns[1]
        yield "rules", rules()

    def _try(self, name: str, choice: Ways, predicted: Assignment | None = None) -> Trial | None:
        """Try a choice, once; None where the runtime does not build or run it."""
        known = next((trial for trial in self.trials if trial.choice == choice), None)
        if known is not None or choice in self.refused:
            return known
        self._tell(name)
        began = time.monotonic()
        plan = self.lab.plan(choice)
        try:
            outcome = self.lab.trial(plan)
        except (BuilderError, ModelError, MachineError) as error:
            if not self.trials:
                raise
            self.refused.append(choice)
            self.lab.builder.job.stages.listener.warned(f"{name} was not tried: {error}")
            return None
        finally:
            if self.trials:
                self.took_s = max(self.took_s, time.monotonic() - began)
        self.times.learn(plan, self._shares(outcome))
        trial = Trial(
            name=name,
            choice=choice,
            plan=plan,
            noise=self.space.loss(choice),
            predicted_us=predicted.time_us if predicted else None,
            outcome=outcome,
            passed=self.goal.passes(outcome),
        )
        self.trials.append(trial)
        return trial

    def _shares(self, outcome: Outcome) -> Shares:
        """Kernels' times, as if the machine were as fast as it was at the first trial.

        Profiling slows an engine down, and other work on the machine does too; the speed against
        the float engine knows of neither.
        """
        first = self.trials[0].outcome if self.trials else outcome
        if outcome.over_float is None or first.latency is None:
            return outcome.shares
        return outcome.shares.adding_up_to(1e3 * first.latency.value / outcome.over_float.value)

    def _for_latency(self) -> bool:
        """Narrow the noise budget to where plans just pass; whether that came to an end.

        Where every plan passes, only times are learned: that ends when no faster plan is predicted,
        or when a few predictions in a row did not come true.
        """
        low, high, limit = _FLOOR, math.inf, math.inf
        idle = 0
        while len(self.trials) + len(self.refused) < _MOST_TRIALS:
            if self._late():
                return False
            assignment = fastest(self.space.problem(self.times), limit)
            if assignment is None:  # float itself makes more noise than that
                return True
            if high == math.inf and (idle >= _PATIENCE or not self._promises(assignment)):
                return True
            before, least = len(self.trials), self._best().outcome.cost
            trial = self._assigned(assignment)
            if trial is not None and trial.passed:
                if len(self.trials) > before:
                    low = max(low, trial.noise)
                    idle = 0 if trial.outcome.cost * _AS_FAST < least else idle + 1
                    continue  # what it showed of times may change the answer
                if high == math.inf:
                    return True
                low = limit
            else:
                high = min(high, assignment.loss)
            if high / low < _CLOSE:
                return True
            limit = math.sqrt(low * high)
        return False

    def _promises(self, assignment: Assignment) -> bool:
        """Whether a plan is predicted to be faster than the best so far; unknown off the device."""
        first, best = self.trials[0].outcome, self._best().outcome
        if best.over_float is None or first.latency is None:
            return True
        return assignment.time_us * _AS_FAST < 1e3 * first.latency.value * best.cost

    def _for_accuracy(self) -> bool:
        """Correct the predicted times by the measured ones until the plan comes back."""
        limit, before = 1e3 * (self.goal.latency_ms or math.inf), math.nan
        for _ in range(_MOST_TRIALS):
            if self._late():
                return False
            problem, known = self.space.problem(self.times), len(self.trials)
            assignment = most_accurate(problem, limit) or fastest(problem)
            trial = self._assigned(assignment) if assignment else None
            if assignment is None or trial is None:
                return True
            if len(self.trials) == known and limit == before:
                return True
            limit, before = self._corrected(assignment, trial.outcome), limit
        return False

    def _corrected(self, assignment: Assignment, outcome: Outcome) -> float:
        """What the programme's kernels may take, by how a plan's prediction came true."""
        asked, forward = self.goal.latency_ms or math.inf, outcome.latency
        if forward is None:
            return 1e3 * asked
        whole = outcome.end_to_end or forward
        around = whole.value - forward.value  # preprocessing and copies, whatever the plan
        return max(0.0, asked - around) * assignment.time_us / forward.value

    def _assigned(self, assignment: Assignment) -> Trial | None:
        choice = {name: assignment.chosen[name] for name in self.space.chosen}
        return self._try(f"assignment {len(self.trials)}", choice, assignment)

    def _best(self) -> Trial:
        """What serves the goal best; where none passes, float."""
        passed = [trial for trial in self.trials if trial.passed] or self.trials[:1]
        if self.goal.objective == "accuracy":
            in_time = [trial for trial in passed if self.goal.in_time(trial.outcome)]
            fitting = in_time or [min(passed, key=lambda trial: trial.outcome.cost)]
            return max(fitting, key=lambda t: (t.outcome.agreement.value, -t.noise))
        least = min(trial.outcome.cost for trial in passed)
        as_fast = [trial for trial in passed if trial.outcome.cost <= _AS_FAST * least]
        return min(as_fast, key=lambda trial: trial.noise)

    def _more(self) -> bool:
        return len(self.trials) < self.least or not self._late()

    def _late(self) -> bool:
        """Whether another trial would end too late."""
        return time.monotonic() - self.begun + self.took_s > self.seconds

    def _tell(self, name: str) -> None:
        """Done, the time that is left at most, and the best so far."""
        elapsed = time.monotonic() - self.begun
        best = self._best().outcome.over_float if self.trials else None
        so_far = f"best {best.value:.2f}× float, " if best else ""
        left = max(0.0, self.seconds - elapsed)
        state = f"{name}: {so_far}{len(self.trials)} plans tried, {left:.0f} s left at most"
        listener = self.lab.builder.job.stages.listener
        listener.progressed("search", round(elapsed), round(self.seconds), state)
