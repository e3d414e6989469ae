"""What a model's output is, told by values alone, and one distribution behind every form of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rtc.compiler.core.outputs import (
    LEAST_PROBABILITY,
    OutputKind,
    as_logits,
    log_probabilities,
    output_kind,
)


def logits(classes: int = 10, samples: int = 64, spread: float = 3.0) -> np.ndarray:
    draw = np.random.default_rng(0).normal(size=(samples, classes))
    return (spread * draw).astype(np.float32)


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z - z.max(axis=1, keepdims=True)) / np.exp(z - z.max(axis=1, keepdims=True)).sum(
        axis=1, keepdims=True
    )


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


Z = logits(spread=2.0)
NONE, P, LOG_P = OutputKind.LOGITS, OutputKind.PROBABILITIES, OutputKind.LOG_PROBABILITIES


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        (Z, NONE),
        (np.maximum(Z, 0), NONE),
        (softmax(Z), P),
        (softmax(logits(1000)), P),
        (softmax(logits(1000)).astype(np.float16), P),
        (softmax(logits(2, samples=1)), P),
        (softmax(100 * Z), P),  # zeros and ones
        (np.eye(10)[Z.argmax(axis=1)], P),  # Hardmax
        (np.round(softmax(Z) * 256) / 256, P),  # through Q/DQ
        (np.round(softmax(logits(100, spread=1)) * 256) / 256, P),
        (np.concatenate([sigmoid(Z[:, :1]), sigmoid(-Z[:, :1])], axis=1), P),
        (sigmoid(Z), NONE),
        (sigmoid(Z[:, :1]), NONE),  # one class: no distribution
        (np.round(sigmoid(Z)), NONE),  # several labels at once
        (np.log(softmax(Z)), LOG_P),
        (np.log(softmax(logits(1000))).astype(np.float16), LOG_P),
        (-np.abs(Z), NONE),
        (np.where(np.arange(10) == 3, np.nan, softmax(Z)), NONE),
        (np.zeros((0, 3)), NONE),
        (np.zeros((4, 3, 2)), NONE),
    ],
)
def test_values_tell_the_kind(outputs: np.ndarray, kind: OutputKind) -> None:
    assert output_kind(outputs) is kind


def test_one_row_that_adds_up_to_something_else_makes_them_scores() -> None:
    outputs = softmax(Z)
    outputs[5] *= 1.01
    assert output_kind(outputs) is NONE


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [(Z, NONE), (softmax(Z), P), (np.log(softmax(Z)), LOG_P), (0.97 * softmax(Z), P)],
)
def test_the_distribution_behind_every_form_is_the_same(
    outputs: np.ndarray, kind: OutputKind
) -> None:
    wanted = np.log(softmax(Z.astype(np.float64)))
    assert log_probabilities(outputs, kind) == pytest.approx(wanted, abs=1e-4)


def test_a_probability_of_zero_counts_as_the_least() -> None:
    found = as_logits(np.array([[1.0, 0.0, 1e-30]]), P)
    assert found[0] == pytest.approx(
        [0.0, math.log(LEAST_PROBABILITY), math.log(LEAST_PROBABILITY)]
    )
    assert -found[0, 1] == pytest.approx(15.94, abs=0.01)
