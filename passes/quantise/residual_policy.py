"""How the policy of each residual Add is decided: the scheme's own, unless pinned.

A scheme's own policy is what its runtime computes fastest: QUANTISE_SKIP where the Add runs inside
a convolution, QUANTISE_BOTH where a layer is INT8 only between integers. A policy that quantises
needs both branches to end in INT8 layers; without, the Add is kept half.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.passes import Statistics
from rtc.compiler.core.precision import Range, ResidualDecision, ResidualPolicy
from rtc.compiler.core.target import QuantScheme
from rtc.passes.support.layers import origin
from rtc.passes.support.patterns import by_name, matching
from rtc.passes.support.residuals import Residual

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_WHERE = "precision.residuals"


def own_policy(scheme: QuantScheme) -> ResidualPolicy:
    """What a scheme does with a residual Add between INT8 layers, all else being equal."""
    both = scheme.quantise_outputs
    return ResidualPolicy.QUANTISE_BOTH if both else ResidualPolicy.QUANTISE_SKIP


def obstacle(
    add: Residual,
    policy: ResidualPolicy,
    scheme: QuantScheme,
    integer: Collection[str],
    float_adds: Collection[str] = (),
) -> str:
    """Why an Add cannot have a policy; "" where it can.

    Args:
        add: the Add.
        policy: the policy.
        scheme: the target's.
        integer: names of the layers that are INT8.
        float_adds: names of the Adds that the user pinned to a float type.
    """
    if policy is ResidualPolicy.KEEP_HALF:
        return ""
    if policy is ResidualPolicy.RECALIBRATED:
        policy = own_policy(scheme)
    for side, end in zip(("branch", "skip"), add.ends, strict=True):
        if end not in integer:
            return f"its {side} ends in {end or 'the input'}, which is not INT8"
    if scheme.quantise_outputs and add.name in float_adds:
        return "the Add itself is pinned to a float type"
    if policy is ResidualPolicy.QUANTISE_SKIP and not add.fusable:
        return "no convolution ends at it that it could be fused into"
    return ""


def not_expressible(policy: ResidualPolicy, scheme: QuantScheme) -> str:
    """Why a scheme has no form of a policy, on whatever Add; "" where it has one."""
    if policy is ResidualPolicy.QUANTISE_SKIP and scheme.quantise_outputs:
        return "in this runtime a convolution is INT8 only if its output is quantised"
    return ""


@dataclass(frozen=True)
class ResidualRules:
    """What decides in one candidate.

    Attributes:
        scheme: the target's.
        pins: the user's policy by name or glob of an Add; a name beats a glob.
        able: names of the layers that INT8 is possible for, here and with the user's pins.
        float_adds: names of the Adds that the user pinned to a float type.
        given: decisions to keep where no pin speaks and the layers around allow it.
    """

    scheme: QuantScheme
    pins: Mapping[str, ResidualPolicy]
    able: Collection[str]
    float_adds: Collection[str]
    given: Mapping[str, ResidualDecision] = field(default_factory=dict)

    def decide(
        self, adds: Sequence[Residual], integer: Collection[str], statistics: Statistics
    ) -> dict[str, ResidualDecision]:
        """A decision for each Add, given the layers that are INT8 and the ranges of all tensors.

        Raises:
            RecipeError: a pin that matches no residual Add, contradicts another, or cannot be kept
                (id "unsupported-pin" where it is this runtime that has no such form).
        """
        pinned = self._pinned({add.name: add for add in adds})
        return {
            add.name: self._decide(add, pinned.get(add.name), integer, statistics) for add in adds
        }

    def _decide(
        self,
        add: Residual,
        pinned: ResidualPolicy | None,
        integer: Collection[str],
        statistics: Statistics,
    ) -> ResidualDecision:
        policy, because = self._wanted(add.name, pinned)
        reason = self._obstacle(add, policy, integer)
        if reason:
            because = f"{because}, but {reason}" if pinned else reason
            policy = ResidualPolicy.KEEP_HALF
        self._refuse_inexpressible(add, policy)
        return ResidualDecision(
            policy=policy,
            branches=(add.branch.name, add.skip.name),
            branch_ranges=(_range(add.branch, statistics), _range(add.skip, statistics)),
            because=because,
            pinned=pinned is not None,
        )

    def _wanted(self, add: str, pinned: ResidualPolicy | None) -> tuple[ResidualPolicy, str]:
        if pinned:
            return pinned, f"pinned to {pinned}"
        if add in self.given:
            return self.given[add].policy, self.given[add].because
        own = own_policy(self.scheme)
        return own, f"the runtime's rule: {_RULES[own]}"

    def _obstacle(self, add: Residual, policy: ResidualPolicy, integer: Collection[str]) -> str:
        return obstacle(add, policy, self.scheme, integer, self.float_adds)

    def _refuse_inexpressible(self, add: Residual, policy: ResidualPolicy) -> None:
        reason = not_expressible(policy, self.scheme)
        if reason:
            raise RecipeError(
                f"{add.name} cannot be pinned to {policy}: {reason}",
                where=_WHERE,
                fix=f"pin it to {ResidualPolicy.QUANTISE_BOTH} or {ResidualPolicy.KEEP_HALF}",
                id="unsupported-pin",
            )

    def _pinned(self, adds: Mapping[str, Residual]) -> dict[str, ResidualPolicy]:
        """The pinned policy by Add."""
        for name in (pin for pin in self.pins if pin in adds):
            self._refuse_impossible(adds[name], self.pins[name])
        return by_name(self.pins, adds, lambda pattern: self._matches(pattern, adds), _WHERE)

    def _matches(self, pattern: str, adds: Mapping[str, Residual]) -> list[str]:
        """The Adds that a glob pins: those that can have the policy."""
        matched = matching(pattern, adds, _WHERE, of="residual Add")
        policy = self.pins[pattern]
        able = [name for name in matched if not self._obstacle(adds[name], policy, self.able)]
        if not able:
            self._refuse_impossible(adds[matched[0]], policy)
        return able

    def _refuse_impossible(self, add: Residual, policy: ResidualPolicy) -> None:
        reason = self._obstacle(add, policy, self.able)
        if reason:
            raise RecipeError(
                f"{add.name} cannot be pinned to {policy}: {reason}",
                where=_WHERE,
                fix=f"pin it to {ResidualPolicy.KEEP_HALF}, or take the pin out",
                id="impossible-pin",
            )


_RULES: Mapping[ResidualPolicy, str] = {
    ResidualPolicy.QUANTISE_SKIP: "the Add runs inside the convolution that ends its branch",
    ResidualPolicy.QUANTISE_BOTH: "the Add is INT8 between integers",
}


def _range(tensor: gs.Tensor, statistics: Statistics) -> Range:
    seen = statistics[origin(tensor).name]
    return seen.low, seen.high
