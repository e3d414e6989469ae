"""What a candidate is held to while its precision is worked on, and how it is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtc.calibration.sensitivity.tally import snr_interval
from rtc.compiler.core.arrays import Array, BoolArray, Float64Array, Int64Array
from rtc.compiler.core.errors import DataError, RecipeError
from rtc.compiler.core.evidence import Measured
from rtc.compiler.core.intervals import Interval, paired_difference, wilson
from rtc.compiler.core.outputs import as_logits, output_kind
from rtc.compiler.diagnose.quantity import Quantity
from rtc.compiler.recipe.schema import Recipe
from rtc.compiler.report.figures import amount

_NAMES = {
    Quantity.AGREEMENT: "agreement with float",
    Quantity.TOP1: "drop of top-1",
    Quantity.SNR: "output SNR",
}


@dataclass(frozen=True)
class Metric:
    """A quantity and its limit: the largest drop of top-1, the least of the others."""

    quantity: Quantity
    limit: float

    @property
    def unit(self) -> str:
        """What its values are in."""
        return "dB" if self.quantity is Quantity.SNR else "fraction"

    def holds(self, value: float) -> bool:
        """Whether a value keeps the limit."""
        return value <= self.limit if self.quantity is Quantity.TOP1 else value >= self.limit

    def surely_fails(self, found: Measured) -> bool:
        """Whether a value fails the limit with its whole 95 % interval."""
        best = found.low if self.quantity is Quantity.TOP1 else found.high
        return best is not None and not self.holds(best)

    def measure(
        self,
        floats: Array,
        outputs: Array,
        labels: Int64Array | None,
        where: str,
        *,
        incoming: Array | None = None,
    ) -> Measured:
        """Measure outputs (N, classes) against the float model's; those that are not finite lose.

        A drop of top-1 counts from the model that came in, as the gate has it: `incoming` are its
        outputs, where passes changed what it computes.

        Raises:
            DataError: the drop of top-1 without labels.
        """
        first = floats if incoming is None or self.quantity is not Quantity.TOP1 else incoming
        seen = self._interval(first, outputs, labels)
        return Measured(seen.value, self.unit, where, len(outputs), seen.low, seen.high)

    def _interval(self, floats: Array, outputs: Array, labels: Int64Array | None) -> Interval:
        finite: BoolArray = np.asarray(np.isfinite(outputs).all(axis=1))
        own, best = outputs.argmax(axis=1), floats.argmax(axis=1)
        if self.quantity is Quantity.AGREEMENT:
            return wilson(int(np.count_nonzero(finite & (own == best))), len(own))
        if self.quantity is Quantity.SNR:
            return snr_interval(*_powers(floats, outputs, finite))
        if labels is None:
            raise DataError(
                "a drop of top-1 needs labels", fix="--metric agreement", id="no-labels"
            )
        return paired_difference(best == labels, finite & (own == labels))

    def __str__(self) -> str:
        sign = "≤" if self.quantity is Quantity.TOP1 else "≥"
        return f"{_NAMES[self.quantity]} {sign} {amount(self.limit, self.unit)}"


def _powers(floats: Array, outputs: Array, finite: BoolArray) -> tuple[Float64Array, Float64Array]:
    """Signal and noise of each sample, in logits."""
    kind = output_kind(floats)
    reference = as_logits(floats, kind)
    seen = as_logits(np.where(finite[:, None], outputs, 0.0), kind)
    noise = ((seen - reference) ** 2).sum(axis=1)
    return (reference**2).sum(axis=1), np.where(finite, noise, np.inf)


def metric_of(
    recipe: Recipe,
    quantity: Quantity,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Metric:
    """The metric with the limit that was given, or else with the recipe's own gate.

    Raises:
        RecipeError: a limit that the quantity does not have, or one outside of what it can be.
    """
    drop = quantity is Quantity.TOP1
    if (at_least if drop else at_most) is not None:
        raise RecipeError(
            f"{quantity} has no such limit",
            seen="--at-least" if drop else "--at-most",
            expected="--at-most" if drop else "--at-least",
            id="usage",
        )
    given = at_most if drop else at_least
    limit = _own_limit(recipe, quantity) if given is None else given
    if quantity is not Quantity.SNR and not 0 <= limit <= 1:
        raise RecipeError(
            f"{quantity} is a fraction", seen=f"{limit:g}", expected="0 to 1", id="usage"
        )
    return Metric(quantity, limit)


def _own_limit(recipe: Recipe, quantity: Quantity) -> float:
    """The recipe's gate; where it has none, the one that recipes have by default."""
    gates = recipe.gates
    if quantity is Quantity.SNR:
        return recipe.precision.min_snr_db
    own = gates.top1_drop if quantity is Quantity.TOP1 else gates.parity
    field = "top1_drop" if quantity is Quantity.TOP1 else "parity"
    default = type(gates).model_fields[field].default
    return float(default if own is None else own)
