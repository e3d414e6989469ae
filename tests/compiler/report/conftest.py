"""Three reports as a compile leaves them: a CPU, a device that is not here, and a failed gate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rtc.compiler.core.evidence import Estimated, Measured, Pending
from rtc.compiler.core.results import (
    AccuracyRow,
    AddRow,
    CandidateRow,
    CertificateRow,
    Curve,
    GateRow,
    LatencyRow,
    LayerRow,
    LossRow,
    PolicyRow,
    Report,
    SearchRow,
    StageRow,
    TrialRow,
)
from rtc.compiler.core.verdicts import CandidateState, LatencyMode, LayerVerdict, TrialState

HOST = "AMD EPYC 7B13, 2 threads"


def fraction(value: float, low: float | None = None, high: float | None = None) -> Measured:
    return Measured(value, "fraction", f"{HOST}, onnxruntime 1.31.1", 1000, low, high)


def nats(value: float) -> Measured:
    return Measured(value, "nats", f"{HOST}, onnxruntime 1.31.1", 1000)


def latency(subject: str, mode: str, batch: int, median: float, base: float | None) -> LatencyRow:
    """A row of 400 log-normal samples around a median, with a slower tail."""
    generator = np.random.default_rng([len(subject), len(mode), batch])
    samples = median * np.exp(generator.normal(0.0, 0.03, 400))
    samples[::23] *= generator.uniform(1.1, 1.6, samples[::23].shape)
    names = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9}
    percentiles = {name: float(np.percentile(samples, at)) for name, at in names.items()}
    low, middle, high = (float(value) for value in np.percentile(samples, [5, 50, 95]))
    return LatencyRow(
        subject,
        mode,
        batch,
        Measured(middle, "ms", HOST, 4000, low, high),
        fps=batch / middle * 1e3,
        speedup=None if base is None else base / middle,
        speedup_interval=None if base is None else (0.9 * base / middle, 1.2 * base / middle),
        percentiles=percentiles,
        samples_ms=tuple(float(value) for value in samples),
    )


def accuracy() -> tuple[AccuracyRow, ...]:
    rows = (
        ("teacher", 0.991, 1.0, 0.0312, None, "torch 2.15, float32"),
        ("float model", 0.989, 0.999, 0.0389, None, "onnxruntime 1.31.1, unoptimised"),
        ("shipped engine", 0.988, 0.999, 0.0402, 0.996, "openvino 2026.4"),
    )
    return tuple(
        AccuracyRow(
            subject,
            fraction(top1, top1 - 0.007, top1 + 0.005),
            fraction(top5),
            nats(loss),
            None if agreement is None else fraction(agreement, 0.990, 0.999),
            where,
        )
        for subject, top1, top5, loss, agreement, where in rows
    )


def layers() -> tuple[LayerRow, ...]:
    ran = "planned half, the builder runs fp32 (Gelu)"
    rows = (
        ("/conv1/Conv", "6×28×28", "half", "half", "kept", "first layer: 1 channel", None),
        ("/act1/Relu", "6×28×28", "half", "", "folded", "follows /conv1/Conv", None),
        ("/pool1/AveragePool", "6×14×14", "half", "half", "kept", "no weights", None),
        ("/conv2/Conv", "16×10×10", "int8", "int8", "kept", "38.1 dB ≥ 20 dB", 38.1),
        ("/act2/Gelu", "16×10×10", "half", "fp32", "changed", ran, None),
        ("/pool2/AveragePool", "16×5×5", "half", "half", "kept", "no weights", None),
        ("/fc1/Gemm", "120", "int8", "int8", "kept", "34.7 dB ≥ 20 dB", 34.7),
        ("/fc2/Gemm", "84", "int8", "int8", "kept", "29.9 dB ≥ 20 dB", 29.9),
        ("/fc3/Gemm", "10", "half", "half", "kept", "last layer; pinned by the recipe", 31.0),
    )
    *free, last = (
        LayerRow(
            name, name.rpartition("/")[2], shape, planned, built, LayerVerdict(verdict), reason, snr
        )
        for name, shape, planned, built, verdict, reason, snr in rows
    )
    return (*free, replace(last, pinned=True))


def curves() -> tuple[Curve, ...]:
    epochs = np.arange(1, 9)

    def curve(subject: str, stage: str, top: float, pace: float, seconds: float) -> Curve:
        share = 1 - np.exp(-pace * epochs)
        return Curve(
            subject,
            stage,
            tuple(float(value) for value in np.round(0.9 + (top - 0.9) * share, 4)),
            tuple(float(value) for value in np.round(0.4 - 0.36 * share, 4)),
            seconds,
        )

    return (
        curve("teacher", "train", 0.991, 0.8, 14.2),
        curve("student", "distill", 0.989, 0.7, 9.8),
        curve("control", "distill", 0.985, 0.6, 8.1),
    )


def searched() -> SearchRow:
    """A search over the layers with weights, with one residual Add."""

    def loss(layer: str, decibels: float) -> LossRow:
        return LossRow(
            layer=layer,
            op=layer.rpartition("/")[2],
            precision="int8",
            layer_snr_db=decibels + 3,
            output_snr_db=(decibels, decibels - 1.5, decibels + 1.5),
            kl=(1e-4, 5e-5, 2e-4),
            agreement=(0.998, 0.99, 1.0),
            top1_drop=(0.001, -0.002, 0.004),
        )

    def trial(name: str, state: str, speed: float, agreement: float) -> TrialRow:
        return TrialRow(
            name=name,
            state=TrialState(state),
            layers={"half": 2, "int8": 3},
            noise_db=-30.0,
            agreement=(agreement, agreement - 0.01, min(1.0, agreement + 0.005)),
            top1_drop=(1 - agreement, -0.001, 0.02),
            latency=Measured(0.5 / speed, "ms", HOST, 200),
            over_float=(speed, 0.97 * speed, 1.03 * speed),
        )

    time = Measured(0.002, "ms", "the runtime's profiler", 1)
    return SearchRow(
        candidate="openvino mix",
        engine="fast",
        samples=64,
        tried_on=500,
        seconds=41.2,
        ended=True,
        measured=True,
        trials=(
            trial("float", "passed", 1.0, 1.0),
            trial("all int8", "refused", 1.9, 0.961),
            trial("assignment 4", "best", 1.6, 0.996),
        ),
        losses=(loss("/conv2/Conv", 38.1), loss("/fc1/Gemm", 34.7), loss("/fc2/Gemm", 29.9)),
        times_us={"/conv2/Conv": {"half": 5.0, "int8": 3.1}, "/fc1/Gemm": {"half": 2.0}},
        ledger=(
            AddRow(
                add="/block/Add",
                branches=("branch", "skip"),
                ranges=((-2.31, 2.2), (0.0, 7.94)),
                choice="quantise-both",
                because="2 µs keep-half, 1 µs quantise-both (measured)",
                policies=(
                    PolicyRow("keep-half", 34.0, (40.3, 39.6, 41.0), None, time),
                    PolicyRow("quantise-both", 33.5, (40.1, 39.4, 40.8), None, time),
                ),
                left_out={"quantise-skip": "a convolution is INT8 only if its output is quantised"},
            ),
        ),
        ledger_samples=16,
    )


@pytest.fixture
def cpu_report() -> Report:
    cases = [
        ("openvino int8", "forward", 1, 0.0312, 0.0967),
        ("torch eager", "forward", 1, 0.0967, None),
        ("openvino int8", "forward", 64, 0.412, 2.31),
        ("torch eager", "forward", 64, 2.31, None),
        ("openvino int8", "end-to-end", 1, 0.0401, 0.1210),
        ("torch eager", "end-to-end", 1, 0.1210, None),
        ("openvino int8", "end-to-end", 64, 0.588, 2.62),
        ("torch eager", "end-to-end", 64, 2.62, None),
    ]
    rows = tuple(latency(*case) for case in cases)
    top1 = fraction(0.988, 0.981, 0.993)
    return Report(
        recipe="lenet5-mnist",
        version="1.0.0+3f2a9c1b",
        target="cpu",
        passed=True,
        headline="Ships openvino int8: 5.61× faster than torch eager at batch 64, −0.10 pt top-1",
        shipped="openvino int8",
        baseline="torch eager",
        batch=64,
        device={"device": HOST, "runtime": "openvino 2026.4"},
        gates=(
            GateRow("top1_drop", "drop ≤ 1.00 pt", "+0.10 pt (98.90 → 98.80 %)", True, "", top1),
            GateRow("parity", "agreement ≥ 98.00 %", "99.60 % of samples", True, "", top1),
        ),
        accuracy=accuracy(),
        latency=rows,
        candidates=(
            CandidateRow(
                "openvino int8", "openvino", "int8", rows[2].evidence, top1, CandidateState.SHIPPED
            ),
            CandidateRow(
                "onnxruntime fp32",
                "onnxruntime",
                "fp32",
                rows[3].evidence,
                top1,
                CandidateState.SLOWER,
                "2.31 ms against 412 µs",
            ),
            CandidateRow(
                "openvino mix", "openvino", "mix", None, None, CandidateState.FAILED, "no kernel"
            ),
        ),
        layers=layers(),
        certificates=(
            CertificateRow(
                "eliminate-identity",
                True,
                "exact within 1e-05 + 1e-04·|x|",
                "largest difference 0",
                128,
                True,
                "14 nodes",
                "12 nodes",
            ),
            CertificateRow(
                "simplify-activations",
                False,
                "top-1 drop ≤ 0.50 pt",
                "0.10 pt",
                1000,
                True,
            ),
        ),
        stages=(
            StageRow("train", 14.2, "teacher 99.10 %"),
            StageRow("distill", 17.9, "student 98.90 % against control 98.50 %: keeps the student"),
            StageRow("cpu: build", 3.4, "8 engines"),
        ),
        curves=curves(),
        notes=("openvino mix was left out: no kernel for Gelu in bf16",),
        provenance={
            "rtc": "0.1.0",
            "versions": {"onnx": "1.23.0", "openvino": "2026.4.0"},
            "model": "sha256:" + "3f2a9c1b" * 8,
        },
        engine_bytes=251_400,
        searches=(searched(),),
    )


@pytest.fixture
def rtx_report(cpu_report: Report) -> Report:
    engine = "tensorrt-rtx int8"
    estimate = "roofline over 9 built layers, 288 GB/s"

    def estimated(batch: int, milliseconds: float) -> tuple[LatencyRow, ...]:
        return (
            LatencyRow(engine, LatencyMode.FORWARD, batch, Estimated(milliseconds, "ms", estimate),
                       fps=batch / milliseconds * 1e3),
            LatencyRow(engine, LatencyMode.FORWARD, batch, Pending("ms", "RTX 4060 Ti")),
        )  # fmt: skip

    return replace(
        cpu_report,
        target="rtx4060ti",
        headline="Ships tensorrt-rtx int8: −0.10 pt top-1; speed waits for an RTX 4060 Ti",
        shipped=engine,
        device={"device": "RTX 4060 Ti", "compute capability": "8.9"},
        gates=(*cpu_report.gates,
               GateRow("latency_ms", "end-to-end ≤ 1 ms at batch 64", "pending", None,
                       "waits for a measurement on the device (rtc bench)",
                       Pending("ms", "RTX 4060 Ti"))),
        latency=(*estimated(1, 0.0031), *estimated(64, 0.0298)),
        candidates=(
            CandidateRow(engine, "tensorrt-rtx", "int8", Estimated(0.0298, "ms", estimate),
                         fraction(0.988), CandidateState.SHIPPED),
        ),
    )  # fmt: skip


@pytest.fixture
def failed_report(cpu_report: Report) -> Report:
    gate = GateRow(
        "top1_drop", "drop ≤ 1.00 pt", "+2.40 pt (98.90 → 96.50 %)", False,
        "top-1 fell by 2.40 points", fraction(0.965),
    )  # fmt: skip
    return replace(
        cpu_report,
        passed=False,
        headline="Refused by a gate: top-1 fell by 2.40 points",
        gates=(gate, *cpu_report.gates[1:]),
        candidates=tuple(
            replace(row, state=CandidateState.REFUSED) for row in cpu_report.candidates
        ),
    )
