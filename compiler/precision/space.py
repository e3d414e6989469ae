"""The programme of one network on one target: which options its parts have, and what each costs.

Times are those of engines that were built: whatever part a precision was seen in takes what its
kernels took there, fused neighbours and all. The first engines to build are therefore chosen so
that each part, and each conversion between neighbours, is seen at least once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from rtc.compiler.core.operators import WEIGHTED
from rtc.compiler.core.precision import Precision, PrecisionPlan
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.precision.assignment import Option, Part, Problem
from rtc.compiler.precision.parts import Network, Shares

Choice = Mapping[str, Precision]
"""A precision for each layer with weights, by name."""


@dataclass
class Times:
    """What parts and conversions took in the engines that were seen last, in microseconds."""

    parts: dict[tuple[str, Precision], float] = field(default_factory=dict)
    conversions: dict[tuple[str, str], float] = field(default_factory=dict)

    def learn(self, plan: PrecisionPlan, shares: Shares) -> None:
        """Take over what one engine showed; a part that it lists no kernel for took nothing."""
        for name in plan.layers:
            self.parts[name, plan.precision_of(name)] = shares.parts.get(name, 0.0)
        for carrier, times in shares.conversions.items():
            self.conversions |= {(carrier, form): time for form, time in times.items()}

    def of(self, part: str, precision: Precision) -> float:
        """The part's time; in a precision that it was never seen in, that of another one."""
        seen = self.parts.get((part, precision))
        if seen is not None:
            return seen
        return min((t for (name, _), t in self.parts.items() if name == part), default=0.0)

    def rate(self, elements: Mapping[str, int]) -> float:
        """Microseconds per element of a conversion: the median of those that were seen."""
        seen = [time / elements[t] for (t, _), time in self.conversions.items() if elements.get(t)]
        return median(seen) if seen else 0.0


@dataclass(frozen=True)
class Space:
    """What there is to choose on one target.

    Attributes:
        network: the parts.
        offers: the precisions that each part may have, the float one first.
        losses: noise at the output as a fraction of the signal, by layer and precision.
        scheme: how the runtime wants INT8 written.
    """

    network: Network
    offers: Mapping[str, tuple[Precision, ...]]
    losses: Mapping[tuple[str, Precision], float]
    scheme: QuantScheme

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers with weights: what a choice names."""
        return tuple(name for name, op in self.network.parts.items() if op in WEIGHTED)

    def loss(self, choice: Choice) -> float:
        """The noise that a choice is predicted to leave at the output."""
        return sum(self.losses.get(pair, 0.0) for pair in choice.items())

    def problem(self, times: Times) -> Problem:
        """The programme, given what is known of times."""
        rate = times.rate(self.network.elements)
        parts = tuple(
            Part(name, tuple(self._option(name, each, times) for each in offered))
            for name, offered in self.offers.items()
        )
        carriers = {*self.network.elements}
        conversions = {
            (tensor, form): times.conversions.get(
                (tensor, form), rate * self.network.elements[tensor]
            )
            for tensor in carriers
            for form in ("int8", "half", "fp32")
        }
        conversions |= {(_made(tensor), "int8"): float("inf") for tensor in carriers}
        return Problem(parts, conversions)

    def _option(self, name: str, precision: Precision, times: Times) -> Option:
        reads = dict.fromkeys(self.network.reads[name], self._form(precision))
        tensor = self.network.writes[name]
        integers = precision is Precision.INT8 and self.scheme.quantise_outputs
        if precision is Precision.INT8 and self.network.parts[name] not in WEIGHTED:
            # A sum or a pool is computed in integers only where its inputs come as integers.
            reads |= dict.fromkeys(map(_made, self.network.reads[name]), "int8")
        floats = self._float(name) if precision is Precision.INT8 else precision
        written = "int8" if integers else self._form(floats)
        return Option(
            name=precision.value,
            time_us=times.of(name, precision),
            loss=self.losses.get((name, precision), 0.0),
            reads=reads,
            writes={tensor: written, _made(tensor): written},
        )

    def _float(self, name: str) -> Precision:
        return next((p for p in self.offers[name] if p is not Precision.INT8), Precision.FP32)

    def _form(self, precision: Precision) -> str:
        """A runtime with one float type for all layers converts nothing between float layers."""
        if precision is Precision.HALF and not self.scheme.half_in_graph:
            return Precision.FP32.value
        return precision.value


def _made(tensor: str) -> str:
    """What stands for who makes a tensor, beside the tensor itself."""
    return f"{tensor} as made"
