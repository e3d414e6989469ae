from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from rtc.compiler.core.evidence import Estimated, Measured, Pending
from rtc.compiler.core.results import Report
from rtc.compiler.diagnose.tables import ledger_table
from rtc.compiler.report.terminal import details, evidence_text, summary

BUNDLE = Path("build/lenet5-mnist/cpu/1.0.0+3f2a9c1b")


def drawn(content: RenderableType, width: int = 120, *, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
    )
    console.print(content)
    return stream.getvalue()


def test_evidence_says_what_it_is() -> None:
    measured = Measured(0.0312, "ms", "host", 10, 0.030, 0.034)
    assert evidence_text(measured).plain == "31.2 µs"
    assert evidence_text(measured, spread=True).plain == "31.2 µs (30.0 – 34.0 µs)"
    assert evidence_text(Estimated(0.0312, "ms", "roofline")).plain == "≈ 31.2 µs est."
    assert evidence_text(Pending("ms", "RTX 4060 Ti")).plain == "pending: RTX 4060 Ti"
    assert evidence_text(None).plain == "–"


def test_the_summary_compares_the_targets(cpu_report: Report, rtx_report: Report) -> None:
    text = drawn(summary([cpu_report, rtx_report], [BUNDLE, Path("build/other")]))
    rows = {line[:20].strip(): line[20:] for line in text.splitlines()}
    assert rows["verdict"].split() == ["PASS", "PASS", "(waiting:", "latency_ms)"]
    assert "openvino int8" in rows["ships"]
    assert "tensorrt-rtx int8" in rows["ships"]
    assert rows["top-1"].count("98.80 %") == 2
    assert "≈ 29.8 µs est." in rows["latency, batch 64"]
    assert "1 of 9" in rows["layers changed"]
    assert "float 98.90 %, −0.10 pt" in text
    assert "95 % CI 98.10 – 99.30 %" in text
    assert f"{cpu_report.accuracy[-1].top1.samples:,} test samples" in text
    assert "faster than torch eager" in text
    assert "pending: RTX 4060 Ti" in text
    assert str(BUNDLE / "report.html") in text


def test_a_failed_gate_is_named_in_the_summary_and_nothing_ships(
    failed_report: Report, rtx_report: Report
) -> None:
    alone = drawn(summary([failed_report], [BUNDLE]))
    assert "FAIL: top1_drop" in alone
    rows = {line[:20].strip(): line[20:].split() for line in alone.splitlines()}
    assert rows["not shipped"] == ["openvino", "int8"]
    assert "ships" not in rows
    both = drawn(summary([failed_report, rtx_report], [BUNDLE, BUNDLE]))
    assert "not shipped: openvino int8" in both
    shown = drawn(details(failed_report))
    assert "shipped engine" not in shown
    assert "ships" not in shown.lower()


def test_a_verdict_without_gates_says_that_none_was_asked(cpu_report: Report) -> None:
    report = replace(cpu_report, gates=())
    assert "PASS (no gate was asked)" in drawn(summary([report], [BUNDLE]))
    assert "no gate was asked" not in drawn(summary([cpu_report], [BUNDLE]))


def test_doubts_stand_under_the_table_and_under_the_headline(cpu_report: Report) -> None:
    report = replace(cpu_report, doubts=("the model guesses",))
    text = drawn(summary([report], [BUNDLE]))
    assert text.index("engine  ") < text.index("! the model guesses") < text.index("bundle  ")
    other = replace(report, target="gpu", doubts=("the model guesses", "a layer changed"))
    both = drawn(summary([report, other], [BUNDLE, BUNDLE]))
    assert both.count("! the model guesses") == 1
    assert "! gpu: a layer changed" in both
    shown = drawn(details(report))
    assert shown.index(report.headline) < shown.index("! the model guesses") < shown.index("Gates")


def test_top5_is_a_column_where_a_model_has_it(cpu_report: Report) -> None:
    assert "top-5" in drawn(details(cpu_report))
    few = tuple(replace(row, top5=None) for row in cpu_report.accuracy)
    assert "top-5" not in drawn(details(replace(cpu_report, accuracy=few)))


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_width_and_survives_a_pipe(
    width: int, cpu_report: Report, rtx_report: Report
) -> None:
    both = drawn(summary([cpu_report, rtx_report], [BUNDLE, BUNDLE]), width)
    for text in (both, drawn(details(cpu_report), width), drawn(details(rtx_report), width)):
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= width
    assert "…" not in both, "nothing is cut off"


def test_colour_comes_where_it_is_wanted(cpu_report: Report) -> None:
    assert "\x1b[1;32mPASS" in drawn(summary([cpu_report], [BUNDLE]), colour=True)


def test_details_hold_every_part(cpu_report: Report) -> None:
    text = drawn(details(cpu_report))
    for title in ("Gates", "Accuracy", "Latency", "Candidates", "Layers"):
        assert title in text
    assert cpu_report.headline in text
    assert all(layer.name in text for layer in cpu_report.layers)
    assert "half (pinned)" in text


@pytest.mark.parametrize("width", [80, 120, 160])
def test_the_residual_ledger_names_each_policy_whole(width: int, cpu_report: Report) -> None:
    search = next(each for each in cpu_report.searches if each.ledger)
    long = replace(search.ledger[0], add="/layer1/layer1.0/blocks/residual/Add_12")
    left = replace(long, policies=(), left_out={"keep-half": "a branch ends in float"})
    text = drawn(ledger_table(replace(search, ledger=(*search.ledger, long, left))), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text.replace(" … ", "")
    for each in search.ledger[0].policies:
        assert text.count(f" {each.policy} ") >= 2
    assert "a branch ends in float" in text


def test_a_speedup_shows_its_interval(cpu_report: Report) -> None:
    row = next(row for row in cpu_report.latency if row.speedup_interval)
    assert row.speedup is not None
    assert row.speedup_interval is not None
    low, high = row.speedup_interval
    assert f"× ({low:.2f} – {high:.2f})" in drawn(details(cpu_report), 200)
    assert f"95 % CI {low:.2f} – {high:.2f}×" in drawn(summary([cpu_report], [Path("b")]), 200)


def test_names_cannot_steer_the_terminal_or_colour_themselves(cpu_report: Report) -> None:
    hostile = "\x1b[2J\x1b]0;taken\x07[bold green]PASS[/] \x9b31m"
    layer = replace(cpu_report.layers[0], name=hostile, reason=hostile, planned=hostile)
    gate = replace(cpu_report.gates[0], name=hostile, found=hostile)
    report = replace(
        cpu_report, recipe=hostile, headline=hostile, shipped=hostile, layers=(layer,),
        gates=(gate,), notes=(hostile,), doubts=(hostile,),
    )  # fmt: skip
    shown = drawn(details(report), 300) + drawn(summary([report], [Path(hostile)]), 300)
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert "[bold green]PASS[/]" in shown
