"""The search on a device whose every time is known, so that the best plan is known as well."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
from nets import OPENVINO

from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.evidence import Estimated, Measured
from rtc.compiler.core.intervals import Interval
from rtc.compiler.core.precision import LayerDecision, Precision, PrecisionPlan, Variant
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.results import AccuracyRow
from rtc.compiler.recipe.sections import Gates
from rtc.compiler.search import trials_loop as searching
from rtc.compiler.search.parts import Network, Shares
from rtc.compiler.search.programme import Space, Ways
from rtc.compiler.search.trial import Outcome
from rtc.compiler.search.trials_loop import Goal, Searcher

NAMES = [f"conv{i}" for i in range(6)]
HALF_US = dict.fromkeys(NAMES, 10.0)
INT8_US = dict(zip(NAMES, (12.0, 4.0, 5.0, 11.0, 3.0, 9.5), strict=True))
NOISE = dict(zip(NAMES, (1e-3, 1e-4, 3e-3, 1e-5, 1e-2, 1e-5), strict=True))
CONVERSION_US = 1.0
GUESSING = 0.12  # what it comes to at most
CHAIN = Network(
    parts=dict.fromkeys(NAMES, "Conv"),
    reads=dict(zip(NAMES, [("x",), *[(f"t{i}",) for i in range(5)]], strict=True)),
    writes={name: f"t{i}" for i, name in enumerate(NAMES)},
    owners={name: name for name in NAMES},
    carriers={},
    elements=dict.fromkeys(["x", *[f"t{i}" for i in range(6)]], 100),
)
SPACE = Space(
    network=CHAIN,
    offers=dict.fromkeys(NAMES, ("half", "int8")),
    adds={},
    losses={(name, "int8"): noise for name, noise in NOISE.items()},
    scheme=OPENVINO.__class__("uint8", half="bf16", half_in_graph=False, quantise_outputs=True),
)


def converted(choice) -> list[tuple[str, str]]:
    found, before = [], "half"
    for name in NAMES:
        if choice[name] != before:
            found.append((CHAIN.reads[name][0], "int8" if choice[name] == "int8" else "fp32"))
        before = choice[name]
    return found


def true_time(choice) -> float:
    own = sum((INT8_US if how == "int8" else HALF_US)[name] for name, how in choice.items())
    return own + CONVERSION_US * len(converted(choice))


@dataclass
class KnownDevice:
    """A lab whose outcomes are computed from the tables above."""

    broken: str = ""
    nan: str = ""  # a layer whose INT8 makes the output NaN
    altered: str = ""  # one that the builder computes in another precision than INT8
    around: float | None = None  # microseconds end to end, besides the engine
    tried: int = 0
    builder: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(
            job=SimpleNamespace(stages=SimpleNamespace(listener=Nobody()))
        )
    )

    def plan(self, choice) -> PrecisionPlan:
        layers = {n: LayerDecision(Precision(how), "") for n, how in choice.items()}
        return PrecisionPlan("m", "t", Variant.MIX, Precision.HALF, layers)

    def trial(self, plan: PrecisionPlan) -> Outcome:
        choice = {n: d.precision.value for n, d in plan.layers.items()}
        if self.broken and choice[self.broken] == "int8":
            raise BuilderError("no such kernel")
        self.tried += 1
        noise = sum(NOISE[n] for n, how in choice.items() if how == "int8")
        tensors: dict[str, dict[str, float]] = {}
        for tensor, form in converted(choice):
            tensors.setdefault(tensor, {})[form] = CONVERSION_US
        parts = {n: (INT8_US if how == "int8" else HALF_US)[n] for n, how in choice.items()}
        agreement = 1 - noise
        return Outcome(
            latency=Estimated(true_time(choice) / 1e3, "ms", "the table"),
            end_to_end=self.around
            and Measured((true_time(choice) + self.around) / 1e3, "ms", "", 1),
            over_float=None,
            agreement=Interval(agreement, agreement, agreement),
            top1_drop=None,
            lost=noise,
            shares=Shares(parts, tensors, 0.0),
            measured=False,
            finite=choice.get(self.nan) != "int8",
            as_planned=choice.get(self.altered) != "int8",
            quality=quality(0.9 - noise, 0.3 + noise),
        )


def goal(objective: str = "latency", latency_ms: float | None = None, **gates: object) -> Goal:
    asked = {"top1_drop": None, "parity": None, **gates}
    return Goal(objective, Gates(**asked), latency_ms)


def search(held: Goal, lab: KnownDevice | None = None, seconds: float = 60.0, least: int = 1):
    return Searcher(lab or KnownDevice(), SPACE, held, seconds, least).run(rules)


def quality(top1: float, loss: float) -> AccuracyRow:
    def here(value: float, unit: str) -> Measured:
        return Measured(value, unit, "", 500)

    guess = Measured(0.1, "fraction", "", 500, 0.08, GUESSING)
    loss_row = here(loss, "nats")
    return AccuracyRow("plan", here(top1, "fraction"), None, loss_row, None, "here", guess)


def rules() -> Ways:
    return {name: "int8" if name in ("conv1", "conv2") else "half" for name in NAMES}


def test_rules_are_only_asked_where_there_is_time_to_try_them():
    asked = []
    searcher = Searcher(KnownDevice(), SPACE, goal(parity=0.0), 0.0, least=3)
    found = searcher.run(lambda: asked.append("rules") or rules())
    assert len(found.trials) == 3
    assert not asked
    assert "rules" in {trial.name for trial in search(goal(parity=0.0)).trials}


def best_of_all(passes) -> float:
    every = (
        dict(zip(NAMES, ways, strict=True))
        for ways in itertools.product(["half", "int8"], repeat=6)
    )
    return min(true_time(c) for c in every if passes(sum(NOISE[n] for n in c if c[n] == "int8")))


@pytest.mark.parametrize("agreement", [0.0, 0.98, 0.99, 0.997, 0.9985, 0.99995, 1.0])
def test_the_fastest_plan_that_passes_the_gate_is_found(agreement):
    found = search(goal(parity=agreement))
    assert found.ended
    assert found.best.passed
    best = best_of_all(lambda noise: 1 - noise >= agreement)
    assert found.best.outcome.latency.value * 1e3 <= best * 1.05
    assert len(found.trials) < 20


def test_predictions_come_true_on_a_device_that_keeps_its_times():
    found = search(goal(parity=0.0))
    assert found.best.predicted_us == pytest.approx(true_time(found.best.choice))


@pytest.mark.parametrize("around", [None, 30.0])
def test_the_most_accurate_plan_within_a_latency(around):
    lab = KnownDevice(around=around)
    found = search(goal(objective="accuracy", latency_ms=0.045 + (around or 0.0) / 1e3), lab)
    assert found.best.outcome.latency.value <= 0.045
    every = (
        dict(zip(NAMES, ways, strict=True))
        for ways in itertools.product(["half", "int8"], repeat=6)
    )
    noises = [SPACE.loss(choice) for choice in every if true_time(choice) <= 45]
    assert found.best.noise == pytest.approx(min(noises))


@pytest.mark.parametrize("spared", [0.0, 1e-4, 1.3e-3, 5e-3, 2e-2])
@pytest.mark.parametrize("gate", ["top1", "loss", "chance"])
def test_the_gates_that_know_no_other_model_are_kept_in_the_search(gate, spared):
    limits = {"top1": 0.9 - spared, "loss": 0.3 + spared, "chance": 0.9 - GUESSING - spared - 1e-9}
    found = search(goal(**{gate: limits[gate]}))
    assert found.best.passed
    assert found.best.outcome.lost <= spared + 1e-9
    best = best_of_all(lambda noise: noise <= spared + 1e-9)
    assert found.best.outcome.latency.value * 1e3 <= best * 1.05


def test_no_plan_is_asked_for_more_than_the_float_model_reaches():
    """Of a gate on top-1 at 95 % where float has 90 % on these samples: plans that lose nothing."""
    asked = goal(top1=0.95, loss=0.2, top1_drop=0.01)
    reached = asked.within_reach(0.02, quality(0.9, 0.3)).gates
    assert (reached.top1, reached.loss, reached.top1_drop) == (0.9, 0.3, 0.02)
    assert asked.within_reach(0.0, quality(0.97, 0.1)) == asked
    assert asked.within_reach(0.0, None) == asked


def test_where_float_is_not_surely_above_guessing_no_plan_need_be():
    assert goal().within_reach(0.0, quality(0.13, 0.3)).gates.chance == 0.0
    assert goal().within_reach(0.0, quality(0.12, 0.3)).gates.chance is None
    assert goal(chance=0.1).within_reach(0.0, quality(0.2, 0.3)).gates.chance is None


def test_float_ships_where_nothing_else_passes():
    found = search(goal(parity=1.0))
    assert set(found.best.choice.values()) == {"half"}


def test_a_plan_that_the_runtime_refuses_is_no_trial_and_no_end():
    found = search(goal(parity=0.0), KnownDevice(broken="conv4"))
    assert found.best.choice["conv4"] == "half"
    assert found.best.choice["conv1"] == "int8"


def test_a_plan_whose_output_is_not_finite_never_passes():
    found = search(goal(parity=0.0), KnownDevice(nan="conv4"))
    assert found.best.choice["conv4"] == "half"
    assert any(trial.choice["conv4"] == "int8" and not trial.passed for trial in found.trials)


@pytest.mark.parametrize(("strict", "how"), [(True, "half"), (False, "int8")])
def test_a_strict_contract_is_kept_in_the_search(strict, how):
    held = goal(parity=0.0, contract="strict" if strict else "report")
    assert search(held, KnownDevice(altered="conv4")).best.choice["conv4"] == how


def test_a_drop_at_its_limit_passes():
    outcome = KnownDevice().trial(KnownDevice().plan(dict.fromkeys(NAMES, "half")))
    at = replace(outcome, lost=1 - 495 / 500)  # above 0.01
    assert goal(top1_drop=0.01).passes(at)
    assert not goal(top1_drop=0.009).passes(at)


def test_a_runtime_that_refuses_even_float_is_an_error():
    class Broken(KnownDevice):
        def trial(self, plan: PrecisionPlan) -> Outcome:
            raise BuilderError("nothing works")

    with pytest.raises(BuilderError):
        search(goal(parity=0.0), Broken())


def test_a_search_without_time_has_seen_float_alone():
    lab = KnownDevice()
    found = search(goal(parity=0.0), lab, seconds=0.0)
    assert lab.tried == 1
    assert not found.ended


@pytest.mark.parametrize(
    ("first_s", "each_s", "seconds", "tried"),
    [(2.0, 2.0, 6.5, 3), (2.0, 2.0, 5.9, 2), (2.0, 2.0, 1.9, 1), (15.0, 1.0, 18.0, 4)],
    ids=["in time", "the third would be late", "late already", "only the first starts processes"],
)
def test_a_trial_that_would_end_too_late_is_not_begun(monkeypatch, first_s, each_s, seconds, tried):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(searching, "time", clock)

    class Timed(KnownDevice):
        def trial(self, plan: PrecisionPlan) -> Outcome:
            clock.now += each_s if self.tried else first_s
            return super().trial(plan)

    found = Searcher(Timed(), SPACE, goal(parity=0.0), seconds, begun=0.0).run(rules)
    assert len(found.trials) == tried
    assert not found.ended


def test_a_few_plans_are_tried_even_where_they_take_too_long():
    found = search(goal(parity=0.0), seconds=0.0, least=3)
    assert not found.ended
    assert [trial.name for trial in found.trials[:2]] == ["float", "all int8"]
    assert len(found.trials) == 3
    assert found.best.name == "all int8"
