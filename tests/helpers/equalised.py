"""Weights of uneven channels."""

import numpy as np

RANDOM = np.random.default_rng(5)


def weights(*shape, spread=0.5):
    return (RANDOM.standard_normal(shape) * spread).astype(np.float32)


def uneven(*shape):
    """Weights whose output channels (axis 0) span three decades."""
    return weights(*shape) * np.logspace(-1.5, 1.5, shape[0]).reshape(-1, *[1] * (len(shape) - 1))


def spread(values, axis):
    rest = tuple(i for i in range(values.ndim) if i != axis)
    ranges = np.abs(values).max(rest)
    return ranges.max() / ranges.min()
