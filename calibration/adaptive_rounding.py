"""Weights rounded up or down so that a layer's outputs, and not its weights, are nearest.

Given H = E[x xᵀ] (rtc.calibration.gram), each output channel's integers q minimise

    (w - s·q)ᵀ H (w - s·q),     q_j ∈ {⌊w_j / s⌋, ⌈w_j / s⌉}

This is the objective of AdaRound (Nagel et al. 2020, arXiv:2004.10568, section 3). There it is
relaxed with rectified sigmoids and followed by stochastic gradients; here, H being known, it is
descended one coordinate at a time from round-to-nearest, each to its exact minimum: the objective
never rises, there is no rate to tune, and no samples are kept in memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_DAMPING = 0.01  # of H's mean diagonal, as in GPTQ (Frantar et al. 2022): few samples, no overfit
_SWEEPS = 20


def adaptive_rounding(weights: Doubles, scale: Doubles, gram: Doubles) -> Doubles:
    """Integers (out, n) within ±127 for weights (out, n), scales (out, 1) and H (n, n).

    The largest weight of each row stays as it rounds, for the scale was taken from it.
    """
    exact = weights / scale
    values = np.clip(np.rint(exact), -127, 127)
    low, high = np.maximum(np.floor(exact), -127), np.minimum(np.ceil(exact), 127)
    peak = np.abs(exact) >= 126.999
    low[peak] = high[peak] = values[peak]
    if not gram.any():  # the layer reads zeros only
        return values
    damped = gram + _DAMPING * np.trace(gram) / len(gram) * np.eye(len(gram))
    slope = (exact - values) @ damped
    for _ in range(_SWEEPS):
        moved = False
        for j in range(len(gram)):
            best = np.clip(
                np.rint(values[:, j] + slope[:, j] / damped[j, j]), low[:, j], high[:, j]
            )
            step = best - values[:, j]
            if step.any():
                moved = True
                values[:, j] = best
                slope -= step[:, None] * damped[j]
        if not moved:
            break
    return values


def error_power(errors: Doubles, gram: Doubles) -> float:
    """E|e x|² summed over output channels, for errors (out, n) and H (n, n)."""
    return float(np.einsum("oi,ij,oj->", errors, gram, errors, optimize=True))
