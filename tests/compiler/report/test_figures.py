from __future__ import annotations

import pytest

from rtc.compiler.core.evidence import Estimated, Measured, Pending
from rtc.compiler.report.figures import (
    amount,
    clean,
    duration,
    figure,
    interval,
    points,
    rate,
    significant,
    size,
)


@pytest.mark.parametrize(
    ("value", "unit", "reads"),
    [
        (0.0312, "ms", "31.2 µs"),
        (0.9996, "ms", "1,000 µs"),
        (8.7, "ms", "8.70 ms"),
        (999.4, "ms", "999 ms"),
        (1234.0, "ms", "1.23 s"),
        (0.0, "ms", "0 µs"),
        (0.9876, "fraction", "98.76 %"),
        (0.03894, "nats", "0.0389"),
        (38.14, "dB", "38.1 dB"),
        (3.0, "", "3.00"),
    ],
)
def test_amounts_read_in_their_unit(value: float, unit: str, reads: str) -> None:
    assert amount(value, unit) == reads


@pytest.mark.parametrize(
    ("value", "reads"),
    [(12_432.0, "12,400"), (9.999, "10.0"), (0.031249, "0.0312"), (-2.5, "-2.50"), (0.0, "0")],
)
def test_three_digits_count(value: float, reads: str) -> None:
    assert significant(value) == reads


def test_an_interval_names_its_unit_once_where_both_ends_share_it() -> None:
    assert interval(0.982, 0.994, "fraction") == "98.20 – 99.40 %"
    assert interval(0.9, 1.2, "ms") == "900 µs – 1.20 ms"


def test_each_kind_of_evidence_is_told_apart() -> None:
    measured = figure(Measured(0.0312, "ms", "host", 4000, 0.030, 0.034))
    assert measured.kind == "measured"
    assert (measured.text, measured.spread) == ("31.2 µs", "30.0 – 34.0 µs")
    assert measured.source == "4,000 samples, host"
    estimated = figure(Estimated(0.0312, "ms", "roofline"))
    assert (estimated.kind, estimated.text, estimated.source) == (
        "estimated",
        "31.2 µs",
        "roofline",
    )
    pending = figure(Pending("ms", "RTX 4060 Ti"))
    assert (pending.kind, pending.text) == ("pending", "")
    assert pending.source == "waits for RTX 4060 Ti"


@pytest.mark.parametrize(
    ("before", "after", "reads"),
    [(0.989, 0.988, "−0.10 pt"), (0.9, 0.95, "+5.00 pt"), (0.9, 0.90001, "±0.00 pt")],
)
def test_changes_are_given_in_points(before: float, after: float, reads: str) -> None:
    first, second = (Measured(value, "fraction", "", 1) for value in (before, after))
    assert points(first, second) == reads


def test_a_pending_figure_has_not_changed() -> None:
    assert points(Measured(0.9, "fraction", "", 1), Pending("fraction", "a device")) == ""


def test_sizes_rates_and_durations() -> None:
    assert [size(n) for n in (12, 251_400, 4_815_814)] == ["12 B", "251 kB", "4.82 MB"]
    assert [rate(n) for n in (12_432, 2_151_000)] == ["12,400 /s", "2.15 M/s"]
    assert [duration(s) for s in (0.04, 12.34, 125.0)] == ["0.0 s", "12.3 s", "2 min 05 s"]


def test_nothing_that_steers_a_terminal_or_the_reading_direction_is_left() -> None:
    assert clean("a\x1b[31mb\x07\x9bc\x00") == "a�[31mb��c�"
    assert clean("evil\u202egnp.exe\u200b") == "evil�gnp.exe�"
    assert clean("two\nlines\tand\u00a0more") == "two lines and more"
    assert clean("/conv1/Conv → 6×28×28 µs") == "/conv1/Conv → 6×28×28 µs"
