from __future__ import annotations

from dataclasses import replace

from rtc.compiler.core.evidence import Estimated, Measured, Pending
from rtc.compiler.core.results import (
    FLOAT_MODEL,
    SHIPPED_ENGINE,
    AccuracyRow,
    LatencyRow,
    LayerRow,
    Report,
)
from rtc.compiler.core.verdicts import LatencyMode, LayerVerdict


def layer(name: str, verdict: LayerVerdict) -> LayerRow:
    return LayerRow(name, "Conv", "8 × 3", "int8", "int8", verdict, "")


def accuracy(subject: str) -> AccuracyRow:
    top1 = Measured(0.9, "", "here", 10)
    return AccuracyRow(subject, top1, None, Measured(0.5, "nats", "here", 10), None, "here")


FORWARD = LatencyMode.FORWARD
REPORT = Report(
    recipe="net",
    version="1.0.0",
    target="cpu",
    passed=True,
    headline="",
    shipped="openvino int8",
    baseline="torch eager",
    batch=8,
    device={},
    gates=(),
    accuracy=(accuracy(FLOAT_MODEL), accuracy(SHIPPED_ENGINE)),
    latency=(
        LatencyRow("engine", FORWARD, 1, Estimated(1.0, "ms", "roofline")),
        LatencyRow("engine", FORWARD, 1, Pending("ms", "gpu")),
        LatencyRow("engine", FORWARD, 8, Pending("ms", "gpu")),
        LatencyRow("engine", LatencyMode.END_TO_END, 1, Pending("ms", "gpu")),
    ),
    candidates=(),
    layers=tuple(layer(verdict.value, verdict) for verdict in LayerVerdict),
    certificates=(),
    stages=(),
)


def test_rows_by_subject_and_case() -> None:
    row = REPORT.accuracy_of(SHIPPED_ENGINE)
    assert row is REPORT.accuracy[1]
    assert REPORT.accuracy_of("nobody") is None
    rows = REPORT.latency_of("engine", FORWARD, 1)
    assert [type(each.evidence) for each in rows] == [Estimated, Pending]
    assert REPORT.latency_of("engine", FORWARD, 2) == ()


def test_a_shipped_engine_is_called_so_only_where_it_ships() -> None:
    row = REPORT.accuracy[1]
    assert REPORT.called(row) == SHIPPED_ENGINE
    assert replace(REPORT, passed=False).called(row) == "openvino int8"
    assert REPORT.called(REPORT.accuracy[0]) == FLOAT_MODEL


def test_layers_by_verdict() -> None:
    assert [row.name for row in REPORT.changed()] == ["changed"]
    assert [row.name for row in REPORT.unknown()] == ["unknown"]
