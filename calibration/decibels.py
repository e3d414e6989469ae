"""Ratios of powers in decibels."""

from __future__ import annotations

import math

LIMIT_DB = 120.0  # float32 carries no more


def decibels(signal: float, noise: float) -> float:
    """10 · log10(signal / noise), within ±120; the least where the noise is not finite."""
    if noise == 0.0:
        return LIMIT_DB
    if signal == 0.0 or not math.isfinite(noise):
        return -LIMIT_DB
    return max(-LIMIT_DB, min(LIMIT_DB, 10 * math.log10(signal / noise)))
