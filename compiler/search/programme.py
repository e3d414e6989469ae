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
from rtc.compiler.core.precision import Precision, PrecisionPlan, ResidualPolicy
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.search.assignment import Option, Part, Problem
from rtc.compiler.search.parts import Network, Shares

Ways = Mapping[str, str]
"""A way for each layer with weights (a precision) and each residual Add (a policy), by name."""


@dataclass
class Times:
    """What parts and conversions took in the engines that were seen last, in microseconds."""

    parts: dict[tuple[str, str], float] = field(default_factory=dict)
    conversions: dict[tuple[str, str], float] = field(default_factory=dict)

    def learn(self, plan: PrecisionPlan, shares: Shares) -> None:
        """Take over what one engine showed."""
        for name, time in shares.parts.items():
            self.parts[name, way(plan, name)] = time
        for carrier, times in shares.conversions.items():
            self.conversions |= {(carrier, form): time for form, time in times.items()}

    def of(self, part: str, how: str) -> float:
        """The part's time; where it was never seen that way, its time in another."""
        seen = self.parts.get((part, how))
        if seen is not None:
            return seen
        return min((t for (name, _), t in self.parts.items() if name == part), default=0.0)

    def rate(self, elements: Mapping[str, int]) -> float:
        """Microseconds per element of a conversion: the median of those that were seen."""
        seen = [time / elements[t] for (t, _), time in self.conversions.items() if elements.get(t)]
        return median(seen) if seen else 0.0


def way(plan: PrecisionPlan, part: str) -> str:
    """How a plan has a part computed: the policy of a residual Add, else the precision."""
    if part in plan.residuals:
        return plan.residual_of(part).value
    return plan.precision_of(part).value


@dataclass(frozen=True)
class Space:
    """What there is to choose on one target.

    Attributes:
        network: the parts.
        offers: the ways that each part may be computed, the float one first.
        adds: the residual Adds: the carriers of branch and skip, by name.
        losses: noise at the output as a fraction of the signal, by part and way.
        scheme: how the runtime wants INT8 written.
        also: another policy of residual Adds, which no plan is chosen with, but one is tried with:
            so that its time is known.
    """

    network: Network
    offers: Mapping[str, tuple[str, ...]]
    adds: Mapping[str, tuple[str, str]]
    losses: Mapping[tuple[str, str], float]
    scheme: QuantScheme
    also: Mapping[str, str] = field(default_factory=dict)

    @property
    def chosen(self) -> tuple[str, ...]:
        """What a choice names: layers with weights, and residual Adds."""
        parts = self.network.parts
        return tuple(name for name in parts if parts[name] in WEIGHTED or name in self.adds)

    def loss(self, choice: Ways) -> float:
        """The noise that a choice is predicted to leave at the output."""
        return sum(self.losses.get(pair, 0.0) for pair in choice.items())

    def problem(self, times: Times) -> Problem:
        """The programme, given what is known of times."""
        elements = self.network.elements
        rate = times.rate(elements)
        parts = tuple(
            Part(name, tuple(self._option(name, offer, times) for offer in offered))
            for name, offered in self.offers.items()
        )
        conversions = {
            (tensor, form): times.conversions.get((tensor, form), rate * elements[tensor])
            for tensor in elements
            for form in ("int8", "half", "fp32")
        }
        conversions |= {(_made(tensor), "int8"): float("inf") for tensor in elements}
        return Problem(parts, conversions)

    def _option(self, name: str, how: str, times: Times) -> Option:
        reads, written = self._formats(name, how)
        tensor = self.network.writes[name]
        integers = how not in _FLOATS
        return Option(
            name=how,
            time_us=times.of(name, how),
            loss=self.losses.get((name, how), 0.0),
            reads=reads,
            writes={tensor: written, _made(tensor): "int8" if integers else "fp32"},
        )

    def _formats(self, name: str, how: str) -> tuple[dict[str, str], str]:
        """What a part reads in which format, and the format that it writes."""
        floats, inputs = self._float(name), self.network.reads[name]
        if how in _FLOATS:
            form = self._form(how, floats)
            return dict.fromkeys(inputs, form), form
        written = "int8" if self.scheme.quantise_outputs else floats
        if self.network.parts[name] in WEIGHTED:
            return dict.fromkeys(inputs, "int8"), written
        # A sum or a pool is computed in integers only where its inputs come as integers.
        made = dict.fromkeys(map(_made, inputs), "int8")
        if how == ResidualPolicy.QUANTISE_SKIP.value:
            branch, skip = self.adds[name]
            return made | {branch: floats, skip: "int8"}, written
        return made | dict.fromkeys(inputs, "int8"), written

    def _float(self, name: str) -> str:
        """The format of a part's float type."""
        return self._form(self.offers[name][0], "half")

    def _form(self, how: str, floats: str) -> str:
        """A runtime with one float type for all layers converts nothing between float layers."""
        if not self.scheme.half_in_graph or not self.scheme.half:
            return "fp32"
        return floats if how == ResidualPolicy.KEEP_HALF.value else how


_FLOATS = frozenset({Precision.FP32.value, Precision.HALF.value, ResidualPolicy.KEEP_HALF.value})


def _made(tensor: str) -> str:
    """What stands for who makes a tensor, beside the tensor itself."""
    return f"{tensor} as made"
