from __future__ import annotations

import pytest

from rtc.compiler.core.target import QuantScheme
from rtc.compiler.search.parts import Network, Shares
from rtc.compiler.search.programme import Space, Times

NETWORK = Network(
    parts={"a": "Conv", "b": "Conv", "act": "Sigmoid"},
    reads={"a": ("x",), "b": ("t",), "act": ("y",)},
    writes={"a": "t", "b": "y", "act": "z"},
    owners={"a": "a", "b": "b", "act": "act"},
    carriers={},
    elements={"x": 100, "t": 50},
)


def space(scheme: QuantScheme) -> Space:
    losses = {("a", "int8"): 1e-3, ("b", "int8"): 2e-3}
    return Space(NETWORK, dict.fromkeys("ab", ("half", "int8")), {}, losses, scheme)


def test_a_part_never_seen_one_way_takes_its_least_time_in_another() -> None:
    times = Times({("a", "half"): 9.0, ("a", "fp32"): 12.0, ("b", "int8"): 1.0})
    assert times.of("a", "half") == 9.0
    assert times.of("a", "int8") == 9.0
    assert times.of("new", "int8") == 0.0


def test_the_rate_is_the_median_over_tensors_of_known_size() -> None:
    seen = {("x", "int8"): 100.0, ("x", "half"): 300.0, ("t", "int8"): 100.0, ("?", "int8"): 9.0}
    assert Times(conversions=seen).rate(NETWORK.elements) == 2.0
    assert Times().rate(NETWORK.elements) == 0.0


def test_what_is_chosen_are_layers_with_weights_and_adds() -> None:
    assert space(QuantScheme("int8")).chosen == ("a", "b")


def test_the_loss_of_a_choice_is_the_sum_over_what_is_quantised() -> None:
    chosen = space(QuantScheme("int8"))
    assert chosen.loss({"a": "int8", "b": "int8"}) == pytest.approx(3e-3)
    assert chosen.loss({"a": "half", "b": "int8"}) == 2e-3


@pytest.mark.parametrize(
    ("scheme", "floats", "written"),
    [
        (QuantScheme("int8", half="fp16"), "half", "half"),
        (QuantScheme("int8", half="fp16", quantise_outputs=True), "half", "int8"),
        (QuantScheme("int8", half="bf16", half_in_graph=False), "fp32", "fp32"),
        (QuantScheme("int8"), "fp32", "fp32"),
    ],
)
def test_formats_are_those_of_the_scheme(scheme, floats, written) -> None:
    times = Times({("a", "half"): 9.0}, {("x", "int8"): 50.0})
    problem = space(scheme).problem(times)
    half, int8 = problem.parts[0].options
    assert (half.name, half.time_us, half.reads, half.writes["t"]) == (
        "half",
        9.0,
        {"x": floats},
        floats,
    )
    assert (int8.name, int8.loss, int8.reads, int8.writes["t"]) == (
        "int8",
        1e-3,
        {"x": "int8"},
        written,
    )
    assert problem.conversions["t", "int8"] == pytest.approx(25.0)  # 0.5 µs for each of 50


def test_the_last_engine_seen_decides() -> None:
    from rtc.compiler.core.precision import Precision, PrecisionPlan, Variant

    times, plan = Times(), PrecisionPlan("sha256:0", "cpu", Variant.INT8, Precision.HALF)
    for time in (5.0, 4.0):
        times.learn(plan, Shares({"a": time}, {"x": {"int8": time}}, 0.0))
    assert list(times.parts.values()) == [4.0]
    assert times.conversions == {("x", "int8"): 4.0}
