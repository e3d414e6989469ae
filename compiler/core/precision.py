"""What runs in which precision, and why: a plan that a person can read, edit and feed back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rtc.compiler.core.errors import RecipeError


class Precision(str, Enum):
    """What a layer computes in. `HALF` is FP16 or BF16, as the target's scheme says."""

    FP32 = "fp32"
    HALF = "half"
    INT8 = "int8"

    def __str__(self) -> str:
        return self.value


class Variant(str, Enum):
    """What a whole candidate offers its layers; the user's pins hold in each.

    FP32 and HALF: every layer in that precision. INT8: every layer that the runtime can quantise,
    the rest FP32. MIX: the policy decides layer by layer between INT8 and the target's half type
    (FP32 where it has none).
    """

    FP32 = "fp32"
    HALF = "half"
    INT8 = "int8"
    MIX = "mix"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class LayerDecision:
    """The precision of one layer (an ONNX node, by name) and the reason for it.

    `snr_db` is the signal-to-noise ratio at the layer's output when it alone is quantised, in
    decibels; None where the layer cannot be quantised.
    """

    precision: Precision
    because: str
    op: str = ""
    snr_db: float | None = None
    pinned: bool = False


@dataclass(frozen=True)
class PrecisionPlan:
    """A decision for each layer of one model on one target; layers not listed run in `default`."""

    model: str  # digest of the float ONNX model, "sha256:…"
    target: str
    variant: Variant
    default: Precision
    layers: Mapping[str, LayerDecision] = field(default_factory=dict)

    def precision_of(self, layer: str) -> Precision:
        decision = self.layers.get(layer)
        return decision.precision if decision else self.default

    @property
    def is_float(self) -> bool:
        """Whether no layer is planned in INT8, be it by its variant or by a pin."""
        return all(d.precision is not Precision.INT8 for d in self.layers.values())

    def to_dict(self) -> dict[str, Any]:
        return {
            "plan": 1,
            "model": self.model,
            "target": self.target,
            "variant": self.variant.value,
            "default": self.default.value,
            "layers": {name: _decision_to_dict(d) for name, d in self.layers.items()},
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
        try:
            return cls(
                model=str(fields["model"]),
                target=str(fields["target"]),
                variant=Variant(fields["variant"]),
                default=Precision(fields["default"]),
                layers={n: _decision_from_dict(d) for n, d in fields.get("layers", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise RecipeError(f"not a precision plan: {cause}", where="plan") from cause


def _decision_to_dict(decision: LayerDecision) -> dict[str, Any]:
    fields: dict[str, Any] = {"precision": decision.precision.value, "because": decision.because}
    if decision.op:
        fields["op"] = decision.op
    if decision.snr_db is not None:
        fields["snr_db"] = round(decision.snr_db, 2)
    if decision.pinned:
        fields["pinned"] = True
    return fields


def _decision_from_dict(fields: Mapping[str, Any]) -> LayerDecision:
    return LayerDecision(**{**fields, "precision": Precision(fields["precision"])})
