"""What runs in which precision, and why: a plan that a person can read, edit and feed back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import nearest
from rtc.compiler.core.words import Word


class Precision(Word):
    """What a layer computes in. `HALF` is FP16 or BF16, as the target's scheme says."""

    FP32 = "fp32"
    HALF = "half"
    INT8 = "int8"


class Variant(Word):
    """What a whole candidate offers its layers; the user's pins hold in each.

    FP32 and HALF: every layer in that precision. INT8: every layer that the runtime can quantise,
    the rest FP32. MIX: the policy decides layer by layer between INT8 and the target's half type
    (FP32 where it has none).
    """

    FP32 = "fp32"
    HALF = "half"
    INT8 = "int8"
    MIX = "mix"


@dataclass(frozen=True)
class LayerDecision:
    """The precision of one layer (an ONNX node, by name) and the reason for it.

    `snr_db` is the signal-to-noise ratio at the layer's output when it alone is quantised, in
    decibels; None where the layer cannot be quantised. `came_quantised`: the model that came in has
    Q/DQ pairs around the layer, so nothing is to be written for it.
    """

    precision: Precision
    because: str
    op: str = ""
    snr_db: float | None = None
    pinned: bool = False
    came_quantised: bool = False

    @property
    def quantises(self) -> bool:
        """Whether Q/DQ pairs are to be written for the layer."""
        return self.precision is Precision.INT8 and not self.came_quantised


class ResidualPolicy(Word):
    """How a residual Add meets its two branches.

    KEEP_HALF: the Add computes in the float type and asks for no Q of its own. QUANTISE_SKIP: the
    skip branch is quantised, the convolution's is left for the runtime to fuse (TensorRT's rule).
    QUANTISE_BOTH: each branch is quantised with its own scale. SHARED_SCALE: both with one scale,
    which covers both. RECALIBRATED: as the runtime's scheme has it, with ranges taken anew once
    everything before is quantised.
    """

    KEEP_HALF = "keep-half"
    QUANTISE_SKIP = "quantise-skip"
    QUANTISE_BOTH = "quantise-both"
    SHARED_SCALE = "shared-scale"
    RECALIBRATED = "recalibrated"


Range = tuple[float, float]


@dataclass(frozen=True)
class ResidualDecision:
    """The policy of one residual Add (by the name of its ONNX node) and the reason for it.

    Attributes:
        policy: the policy.
        branches: names of the tensors that the Add reads: the convolution's branch, and the skip.
        branch_ranges: (low, high) of each, as its observer took them.
        because: the reason, for a person.
        pinned: whether the user chose it.
    """

    policy: ResidualPolicy
    branches: tuple[str, str]
    branch_ranges: tuple[Range, Range]
    because: str
    pinned: bool = False


@dataclass(frozen=True)
class PrecisionPlan:
    """A decision for each layer of one model on one target; layers not listed run in `default`.

    `residuals` holds a decision for each residual Add; one that is not listed does what the
    precision of its node says (INT8: both branches are quantised).
    """

    model: str  # digest of the float ONNX model, "sha256:…"
    target: str
    variant: Variant
    default: Precision
    layers: Mapping[str, LayerDecision] = field(default_factory=dict)
    residuals: Mapping[str, ResidualDecision] = field(default_factory=dict)

    def precision_of(self, layer: str) -> Precision:
        """What a layer is written in: its decision's, or the plan's default.

        One that came quantised has its integers already; its float side is the default.
        """
        decision = self.layers.get(layer)
        if decision is None or (decision.precision is Precision.INT8 and not decision.quantises):
            return self.default
        return decision.precision

    def residual_of(self, add: str) -> ResidualPolicy:
        """A residual Add's policy: its decision's, or what its precision comes to."""
        if add in self.residuals:
            return self.residuals[add].policy
        integer = self.precision_of(add) is Precision.INT8
        return ResidualPolicy.QUANTISE_BOTH if integer else ResidualPolicy.KEEP_HALF

    @property
    def is_float(self) -> bool:
        """Whether the plan quantises no layer, be it by its variant or by a pin."""
        return not any(decision.quantises for decision in self.layers.values())

    def computes_as(self, other: PrecisionPlan) -> bool:
        """Whether every layer, be it a residual Add, has the same precision in both."""
        names = self.layers.keys() | other.layers.keys()
        return all(self.precision_of(name) is other.precision_of(name) for name in names)

    def to_dict(self) -> dict[str, Any]:
        """The shape of a plan file."""
        return {
            "plan": 1,
            "model": self.model,
            "target": self.target,
            "variant": self.variant.value,
            "default": self.default.value,
            "layers": {name: _decision_to_dict(d) for name, d in self.layers.items()},
            "residuals": {name: _residual_to_dict(d) for name, d in self.residuals.items()},
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> PrecisionPlan:
        """Read a plan back.

        Raises:
            RecipeError: another schema version, or a key or value that a plan does not have.
        """
        if fields.get("plan") != 1:
            raise RecipeError(
                "this plan's schema is not one that rtc reads",
                where="plan",
                seen=repr(fields.get("plan")),
                expected="plan: 1",
            )
        _refuse_unknown("plan", fields, ("plan", *cls.__dataclass_fields__))
        try:
            return cls(
                model=str(fields["model"]),
                target=str(fields["target"]),
                variant=Variant(fields["variant"]),
                default=Precision(fields["default"]),
                layers={
                    n: _decision_from_dict(n, d) for n, d in _section(fields, "layers").items()
                },
                residuals={
                    n: _residual_from_dict(n, d) for n, d in _section(fields, "residuals").items()
                },
            )
        except KeyError as cause:
            raise RecipeError(f"not a precision plan: no key {cause}", where="plan") from cause
        except (TypeError, ValueError, AttributeError) as cause:
            raise RecipeError(f"not a precision plan: {cause}", where="plan") from cause


def _decision_to_dict(decision: LayerDecision) -> dict[str, Any]:
    fields: dict[str, Any] = {"precision": decision.precision.value, "because": decision.because}
    if decision.op:
        fields["op"] = decision.op
    if decision.snr_db is not None:
        fields["snr_db"] = round(decision.snr_db, 2)
    if decision.pinned:
        fields["pinned"] = True
    if decision.came_quantised:
        fields["came_quantised"] = True
    return fields


def _section(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping of a plan, by names of nodes; one that is not there, or empty, holds none."""
    section = fields.get(name) or {}
    if not isinstance(section, Mapping):
        seen = type(section).__name__
        raise RecipeError("not a mapping", where=f"plan: {name}", seen=seen, expected="node: {…}")
    return section


def _refuse_unknown(where: str, fields: Any, known: Iterable[str]) -> None:
    """Raise a RecipeError for what is no mapping, or holds a key that it cannot have."""
    if not isinstance(fields, Mapping):
        raise RecipeError("not a mapping", where=where, seen=repr(fields))
    names = list(known)
    for key in fields:
        if key not in names:
            fix = nearest(str(key), names)
            raise RecipeError("a plan has no such key", where=where, seen=repr(key), fix=fix)


def _reason_and_pin(where: str, fields: Mapping[str, Any]) -> tuple[str, bool]:
    return str(fields.get("because", "")), _flag(where, fields, "pinned")


def _flag(where: str, fields: Mapping[str, Any], key: str) -> bool:
    flag = fields.get(key, False)
    if not isinstance(flag, bool):
        raise RecipeError(
            f"{key} is neither true nor false", where=where, seen=repr(flag), expected="true"
        )
    return flag


def _decision_from_dict(layer: str, fields: Mapping[str, Any]) -> LayerDecision:
    where = f"plan: layers: {layer}"
    _refuse_unknown(where, fields, LayerDecision.__dataclass_fields__)
    known = [precision.value for precision in Precision]
    if fields.get("precision") not in known:
        seen = repr(fields.get("precision"))
        fix = nearest(str(fields.get("precision")), known)
        raise RecipeError("no such precision", where=where, seen=seen, fix=fix)
    because, pinned = _reason_and_pin(where, fields)
    snr = fields.get("snr_db")
    if snr is not None and (isinstance(snr, bool) or not isinstance(snr, (int, float))):
        raise RecipeError("snr_db is not a number", where=where, seen=repr(snr))
    came, op = _flag(where, fields, "came_quantised"), str(fields.get("op", ""))
    return LayerDecision(Precision(fields["precision"]), because, op, snr, pinned, came)


def _residual_to_dict(decision: ResidualDecision) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "policy": decision.policy.value,
        "branches": list(decision.branches),
        "branch_ranges": [list(ends) for ends in decision.branch_ranges],
        "because": decision.because,
    }
    if decision.pinned:
        fields["pinned"] = True
    return fields


def _residual_from_dict(add: str, fields: Mapping[str, Any]) -> ResidualDecision:
    where = f"plan: residuals: {add}"
    _refuse_unknown(where, fields, ResidualDecision.__dataclass_fields__)
    known = [policy.value for policy in ResidualPolicy]
    if fields.get("policy") not in known:
        raise RecipeError(
            "no such policy for a residual Add",
            where=where,
            seen=repr(fields.get("policy")),
            fix=nearest(str(fields.get("policy")), known),
        )
    try:
        branch, skip = fields["branches"]
        ranges = [(float(low), float(high)) for low, high in fields["branch_ranges"]]
        first, second = ranges
        because, pinned = _reason_and_pin(where, fields)
        policy = ResidualPolicy(fields["policy"])
        names = (str(branch), str(skip))
        return ResidualDecision(policy, names, (first, second), because, pinned)
    except (KeyError, TypeError, ValueError) as cause:
        raise RecipeError(f"not a decision on a residual Add: {cause}", where=where) from cause
