"""Weights rounded up or down so that a layer's outputs, and not its weights, are nearest.

Given H = E[x xᵀ] (rtc.calibration.gram), each output channel's integers q minimise

    (w - s·q)ᵀ H (w - s·q),     q_j ∈ {⌊w_j / s⌋, ⌈w_j / s⌉}

This is the objective of AdaRound (Nagel et al. 2020, arXiv:2004.10568, section 3). There it is
relaxed with rectified sigmoids and followed by stochastic gradients; here, H being known, it is
descended one coordinate at a time from round-to-nearest, each to its exact minimum: the objective
never rises, there is no rate to tune, and no samples are kept in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtc.compiler.core.arrays import BoolArray, Float64Array, Int64Array

_DAMPING = 0.01  # of H's mean diagonal, as in GPTQ (Frantar et al. 2022): few samples, no overfit
_SWEEPS = 20
_PEAK = 126.999  # steps: 127, but for float32's rounding of the scale


def adaptive_rounding(
    weights: Float64Array, scale: Float64Array, gram: Float64Array, pairs: Sequence[Int64Array] = ()
) -> Float64Array:
    """Integers (out, n) within ±127 for weights (out, n), scales (out, 1) and H (n, n).

    What the scale was taken from stays as it rounds: the largest weight of each row or, with
    `pairs` (rtc.compiler.core.pairs), the largest sum of neighbours, and no other sum grows beyond.
    """
    exact = weights / scale
    values = np.clip(np.rint(exact), -127, 127)
    low, high = np.maximum(np.floor(exact), -127), np.minimum(np.ceil(exact), 127)
    peak = _peaks(exact, pairs)
    low[peak] = high[peak] = values[peak]
    if not gram.any():  # the layer reads zeros only
        return values
    damped = gram + _DAMPING * np.trace(gram) / len(gram) * np.eye(len(gram))
    slope = (exact - values) @ damped
    for _ in range(_SWEEPS):
        moved = False
        for j in range(len(gram)):
            least, most = _room(values, pairs, j)
            best = np.rint(values[:, j] + slope[:, j] / damped[j, j])
            best = np.clip(best, np.maximum(low[:, j], least), np.minimum(high[:, j], most))
            step = best - values[:, j]
            if step.any():
                moved = True
                values[:, j] = best
                slope -= step[:, None] * damped[j]
        if not moved:
            break
    return values


def _peaks(exact: Float64Array, pairs: Sequence[Int64Array]) -> BoolArray:
    """Which weights, in steps of the scale, it was taken from."""
    peaks: BoolArray = np.abs(exact) >= _PEAK
    for signed in (exact, -exact) if pairs else ():
        positive = np.pad(np.maximum(signed, 0), [(0, 0), (0, 1)])
        for partner in pairs:
            peaks |= (signed > 0) & (positive[:, :-1] + positive[:, partner] >= _PEAK)
    return peaks


def _room(
    values: Float64Array, pairs: Sequence[Int64Array], j: int
) -> tuple[Float64Array, Float64Array]:
    """How small and how large weight j may become beside its neighbours (out,)."""
    least, most = np.full(len(values), -127.0), np.full(len(values), 127.0)
    for partner in pairs:
        if partner[j] < values.shape[1]:
            beside = values[:, partner[j]]
            least = np.maximum(least, -127 - np.minimum(beside, 0))
            most = np.minimum(most, 127 - np.maximum(beside, 0))
    return np.minimum(least, values[:, j]), np.maximum(most, values[:, j])


def error_power(errors: Float64Array, gram: Float64Array) -> float:
    """E|e x|² summed over output channels, for errors (out, n) and H (n, n)."""
    return float(np.einsum("oi,ij,oj->", errors, gram, errors, optimize=True))
