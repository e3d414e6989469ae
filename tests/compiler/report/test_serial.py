from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc.compiler.core.errors import IntegrityError, InternalError
from rtc.compiler.core.evidence import Estimated, Evidence, Measured, Pending
from rtc.compiler.core.results import Curve, GateRow, Report
from rtc.compiler.report.serial import from_json, to_json

FINITE = st.floats(allow_nan=False, allow_infinity=False)
EVIDENCE = st.one_of(
    st.builds(
        Measured, FINITE, st.text(), st.text(), st.integers(0, 2**53), st.none() | FINITE
    ),
    st.builds(Estimated, FINITE, st.text(), st.text()),
    st.builds(Pending, st.text(), st.text()),
)  # fmt: skip


@pytest.mark.parametrize("name", ["cpu_report", "rtx_report", "failed_report"])
def test_a_report_comes_back_equal_and_is_written_the_same_again(
    name: str, request: pytest.FixtureRequest
) -> None:
    report: Report = request.getfixturevalue(name)
    content = to_json(report)
    assert from_json(content) == report
    assert to_json(from_json(content)) == content


@settings(max_examples=60, deadline=None, derandomize=True)
@given(evidence=EVIDENCE, text=st.text(), loss=st.lists(FINITE, max_size=3))
def test_any_evidence_comes_back_as_the_kind_it_was(
    evidence: Evidence, text: str, loss: list[float]
) -> None:
    gate = GateRow(text, text, text, passed=None, reason=text, evidence=evidence)
    report = bare(gate, Curve(text, text, (), tuple(loss), 1.0))
    assert from_json(to_json(report)) == report


def test_every_piece_of_evidence_says_its_kind(rtx_report: Report) -> None:
    tree = json.loads(to_json(rtx_report))
    assert [row["evidence"]["kind"] for row in tree["latency"]] == ["estimated", "pending"] * 2
    assert tree["accuracy"][0]["top1"]["kind"] == "measured"


@pytest.mark.parametrize(
    ("field", "word"),
    [
        *(("verdict", word) for word in ("kept", "folded", "follows", "changed", "unknown")),
        *(("state", word) for word in ("shipped", "slower", "less accurate")),
        *(("state", word) for word in ("refused", "failed", "left out")),
    ],
)
def test_reports_of_before_are_read_by_the_words_they_have(
    field: str, word: str, cpu_report: Report
) -> None:
    tree = json.loads(to_json(cpu_report))
    row = tree["layers" if field == "verdict" else "candidates"][0]
    row[field] = word
    assert json.loads(to_json(from_json(json.dumps(tree).encode()))) == tree
    row[field] = "no such word"
    with pytest.raises(IntegrityError, match=field):
        from_json(json.dumps(tree).encode())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_finite_is_not_written(value: float, cpu_report: Report) -> None:
    diverged = Curve("student", "distill", (0.1,), (value,), 1.0)
    with pytest.raises(InternalError) as caught:
        to_json(replace(cpu_report, curves=(diverged,)))
    assert caught.value.id == "not-finite"


def test_a_figure_that_is_not_finite_is_not_read(cpu_report: Report) -> None:
    content = to_json(cpu_report).replace(b'"batch": 64', b'"batch": NaN')
    with pytest.raises(IntegrityError, match="NaN is not a figure"):
        from_json(content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a report"),
        (b"\xff\xfe{", "not a report"),
        (b"[]", "not a report"),
        (b'{"report": 99}', "schema 99"),
        (b'{"report": 1}', "recipe: Field required"),
    ],
)
def test_what_is_not_a_report_is_refused_by_name(content: bytes, says: str) -> None:
    with pytest.raises(IntegrityError, match=says) as caught:
        from_json(content, where="bundle/report.json")
    assert caught.value.where == "bundle/report.json"


def test_a_field_of_another_type_is_named(cpu_report: Report) -> None:
    tree = json.loads(to_json(cpu_report))
    tree["latency"][3]["batch"] = "64"
    with pytest.raises(IntegrityError, match=r"latency\.3\.batch"):
        from_json(json.dumps(tree).encode())


def bare(gate: GateRow, curve: Curve) -> Report:
    return Report(
        recipe="r",
        version="1",
        target="cpu",
        passed=True,
        headline="",
        shipped="",
        baseline="",
        batch=1,
        device={},
        gates=(gate,),
        accuracy=(),
        latency=(),
        candidates=(),
        layers=(),
        certificates=(),
        stages=(),
        curves=(curve,),
    )
