from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc.compiler.search.assignment import Assignment, Option, Part, Problem, fastest, most_accurate


def layer(name: str, source: str, times: tuple[float, float], loss: float) -> Part:
    """A layer that reads and writes in the format it computes in."""
    return Part(
        name,
        (
            Option("half", times[0], 0.0, {source: "fp32"}, {name: "fp32"}),
            Option("int8", times[1], loss, {source: "int8"}, {name: "int8"}),
        ),
    )


def chain(*times: tuple[float, float], loss: float = 1.0, conversion: float = 0.0) -> Problem:
    names = [f"layer{i}" for i in range(len(times))]
    parts = tuple(
        layer(name, source, each, loss)
        for name, source, each in zip(names, ["input", *names], times, strict=False)
    )
    pairs = {(t, f): conversion for t in ["input", *names] for f in ("int8", "fp32")}
    return Problem(parts, pairs)


def test_conversions_cost_more_than_a_lone_fast_layer_gains():
    lone = [(10.0, 11.0), (10.0, 7.0), (10.0, 11.0)]
    assert fastest(chain(*lone, conversion=1.0)).chosen["layer1"] == "int8"
    dear = fastest(chain(*lone, conversion=2.0))
    assert set(dear.chosen.values()) == {"half"}
    assert dear.time_us == 30.0
    assert dear.converted == frozenset()


def test_neighbours_are_quantised_together_to_save_conversions():
    problem = chain((10, 11), (10, 4), (10, 11), (10, 4), conversion=3.0)
    found = fastest(problem)
    assert [found.chosen[f"layer{i}"] for i in range(4)] == ["half", "int8", "int8", "int8"]
    assert found.converted == {("layer0", "int8")}


def test_one_conversion_serves_all_readers():
    parts = (
        layer("stem", "input", (10, 20), 0.0),
        layer("left", "stem", (10, 8), 0.0),
        layer("right", "stem", (10, 8), 0.0),
    )
    found = fastest(Problem(parts, {("stem", "int8"): 3.0}))
    assert found.chosen == {"stem": "half", "left": "int8", "right": "int8"}
    assert found.time_us == 29.0


def test_the_loss_budget_is_kept_and_spent_where_it_gains_most():
    found = fastest(chain((10, 9), (10, 2), (10, 5), loss=1.0), max_loss=2.0)
    assert found.chosen == {"layer0": "half", "layer1": "int8", "layer2": "int8"}
    assert found.loss == 2.0


def test_the_latency_budget_is_kept_with_the_least_loss():
    found = most_accurate(chain((10, 9), (10, 2), (10, 5), loss=1.0), max_time_us=25)
    assert found.chosen == {"layer0": "half", "layer1": "int8", "layer2": "half"}


def test_what_cannot_be_had_is_none():
    assert most_accurate(chain((10, 9), (10, 9)), max_time_us=17.9) is None
    lossy = Problem((Part("only", (Option("int8", 1.0, 5.0),)),))
    assert fastest(lossy, max_loss=4.0) is None


def test_an_option_of_infinite_cost_is_never_taken():
    parts = (Part("only", (Option("a", math.inf), Option("b", 3.0), Option("c", 1.0, math.inf))),)
    assert fastest(Problem(parts)).chosen == {"only": "b"}


def test_nothing_to_decide():
    assert fastest(Problem(())) == Assignment({}, frozenset(), 0.0, 0.0)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A few parts over a few tensors: chains, fan-outs and joins in two or three formats."""
    amount = st.integers(0, 12).map(float)
    parts, tensors = [], ["input"]
    for index in range(draw(st.integers(1, 5))):
        sources = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=2, unique=True))
        name = f"p{index}"
        forms = draw(st.sampled_from([("fp32",), ("fp32", "int8"), ("fp32", "int8", "half")]))
        parts.append(
            Part(
                name,
                tuple(
                    Option(
                        form, draw(amount), draw(amount), dict.fromkeys(sources, form), {name: form}
                    )
                    for form in forms
                ),
            )
        )
        tensors.append(name)
    pairs = {(t, f): draw(amount) for t in tensors for f in ("fp32", "int8", "half")}
    return Problem(tuple(parts), pairs)


def every(problem: Problem) -> list[Assignment]:
    names = [[option.name for option in part.options] for part in problem.parts]
    return [
        problem.score({part.name: name for part, name in zip(problem.parts, choice, strict=True)})
        for choice in itertools.product(*names)
    ]


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 40))
def test_no_other_choice_is_better(problem: Problem, limit: int):
    for solve, aim, held in (
        (fastest, "time_us", "loss"),
        (most_accurate, "loss", "time_us"),
    ):
        found = solve(problem, limit)
        allowed = [each for each in every(problem) if getattr(each, held) <= limit]
        if not allowed:
            assert found is None
            continue
        best = min(getattr(each, aim) for each in allowed)
        assert getattr(found, held) <= limit
        assert getattr(found, aim) == pytest.approx(best, rel=1e-3, abs=1e-3)
