"""95 % confidence intervals of means, of proportions and of their differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from rtc.compiler.core.arrays import BoolArray, Int64Array

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)  # 1.96


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def mean_interval(series: npt.ArrayLike) -> Interval:
    """The mean ± 1.96 standard errors (central limit theorem)."""
    x = np.asarray(series, np.float64)
    mean = float(x.mean())
    error = Z * float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else 0.0
    return Interval(mean, mean - error, mean + error)


def wilson(successes: int, total: int) -> Interval:
    """A proportion and its score interval; sound at 0, at 1 and for few samples.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927) 209-212.
    """
    p = successes / total
    spread = 1 + Z**2 / total
    centre = (p + Z**2 / (2 * total)) / spread
    half = Z / spread * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def paired_difference(before: BoolArray, after: BoolArray) -> Interval:
    """How much rarer something is after than before, on the same samples: p(before) - p(after).

    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17 (1998) 2635-2650, method 10: the
    two Wilson intervals, squared and added with the correlation between the pairs.
    """
    n = len(before)
    both = int(np.count_nonzero(before & after))
    lost = int(np.count_nonzero(before & ~after))
    won = int(np.count_nonzero(~before & after))
    neither = n - both - lost - won
    first, second = wilson(both + lost, n), wilson(both + won, n)
    phi = _correlation(both, lost, won, neither)
    down1, up1 = first.value - first.low, first.high - first.value
    down2, up2 = second.value - second.low, second.high - second.value
    difference = (lost - won) / n
    return Interval(
        difference,
        difference - math.sqrt(max(0.0, down1**2 - 2 * phi * down1 * up2 + up2**2)),
        difference + math.sqrt(max(0.0, up1**2 - 2 * phi * up1 * down2 + down2**2)),
    )


def guessing(answers: Int64Array, labels: Int64Array) -> Interval:
    """The share of right answers where they know nothing of the labels: its mean, and 95 % of it.

    Over all orders in which the same answers could have been given. So whoever always names the
    most frequent class guesses, however often that is right; and whoever knows a rare one from it
    does not, even where naming the frequent one always would be right more often.

    Source: the mean is the chance agreement of J. Cohen, "A coefficient of agreement for nominal
    scales", Educational and Psychological Measurement 20 (1960) 37-46; the variance over orders
    W. Hoeffding, "A combinatorial central limit theorem", Ann. Math. Stat. 22 (1951) 558-566.

    Args:
        answers: class indices (N,).
        labels: class indices (N,).
    """
    n, size = len(labels), int(max(answers.max(), labels.max())) + 1
    given, right = (np.bincount(x, minlength=size).astype(np.float64) for x in (answers, labels))
    pairs = float(given @ right)
    mean = pairs / n**2
    if n < 2:
        return Interval(mean, 0.0, 1.0)
    spread = pairs - float((given * right) @ (given + right)) / n + (pairs / n) ** 2
    error = Z * math.sqrt(max(0.0, spread) / (n - 1)) / n
    return Interval(mean, max(0.0, mean - error), min(1.0, mean + error))


def _correlation(both: int, lost: int, won: int, neither: int) -> float:
    """Phi of a 2 × 2 table, with Newcombe's continuity correction for positive ones."""
    margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    if not margins:
        return 0.0
    product = both * neither - lost * won
    half = (both + lost + won + neither) / 2
    corrected = max(product - half, 0.0) if product > 0 else float(product)
    return corrected / math.sqrt(margins)
