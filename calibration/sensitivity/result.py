"""What an engine finds: for each layer and precision its evidence, and what finding it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rtc.compiler.core.errors import IntegrityError
from rtc.compiler.core.intervals import Interval
from rtc.compiler.core.precision import Precision

_SCHEMA = 1


@dataclass(frozen=True)
class LayerSensitivity:
    """What changes when one layer alone runs in a precision, with 95 % confidence intervals.

    Attributes:
        layer: the ONNX node's name.
        precision: what it runs in, everything else in float32.
        layer_snr_db: signal-to-noise ratio at the layer: where its readers find its output, the
            activation that is fused into it included. In [-120, 120] decibels, as the next.
        output_snr_db: the same of the model's logits; of a model that gives probabilities, of their
            logarithm.
        kl: Kullback-Leibler divergence of its distribution from the float model's, nats per sample.
        agreement: the fraction of samples whose top-1 class stays.
        top1_drop: top-1 accuracy before minus after, a fraction; None without labels.
    """

    layer: str
    precision: Precision
    layer_snr_db: float
    output_snr_db: Interval
    kl: Interval
    agreement: Interval
    top1_drop: Interval | None


@dataclass(frozen=True)
class Cost:
    """What an analysis took.

    Attributes:
        passes: multiply-accumulates of all layers that ran, in forward passes of the float model
            over the same samples; elementwise operators and pools are not counted.
        seconds: wall time, the making of sessions included.
    """

    passes: float
    seconds: float


@dataclass(frozen=True)
class Sensitivity:
    """The evidence on one model.

    Attributes:
        engine: "exact" (every figure is measured) or "fast" (estimated to first order; only the
            layer's own signal-to-noise ratio is measured, and intervals cover sampling alone).
        model: digest of the float model.
        samples: how many stand behind every figure.
        seed: of the random projections; 0 where there are none.
        rows: by layer and precision, in the order in which the alternatives were given.
        cost: what it took.
    """

    engine: Literal["exact", "fast"]
    model: str
    samples: int
    seed: int
    rows: tuple[LayerSensitivity, ...]
    cost: Cost

    def of(self, layer: str, precision: Precision) -> LayerSensitivity | None:
        """The row of a layer in a precision; None where it was not on offer."""
        asked = (layer, precision)
        return next((row for row in self.rows if (row.layer, row.precision) == asked), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        fields = {**asdict(self), "schema": _SCHEMA, "rows": [asdict(row) for row in self.rows]}
        for row in fields["rows"]:
            row["precision"] = row["precision"].value
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Sensitivity:
        """The inverse of `to_dict`.

        Raises:
            IntegrityError: the fields are not those of a result, or of another schema.
        """
        if fields.get("schema") != _SCHEMA:
            raise IntegrityError(
                "a sensitivity analysis of another schema",
                seen=repr(fields.get("schema")),
                expected=str(_SCHEMA),
            )
        rest = {name: value for name, value in fields.items() if name != "schema"}
        try:
            rows = tuple(_row(row) for row in rest.pop("rows"))
            return cls(rows=rows, cost=Cost(**rest.pop("cost")), **rest)
        except (KeyError, TypeError, ValueError) as cause:
            raise IntegrityError(f"not a sensitivity analysis: {cause}") from cause


def _row(fields: Mapping[str, Any]) -> LayerSensitivity:
    def interval(name: str) -> Interval:
        return Interval(**fields[name])

    return LayerSensitivity(
        layer=fields["layer"],
        precision=Precision(fields["precision"]),
        layer_snr_db=fields["layer_snr_db"],
        output_snr_db=interval("output_snr_db"),
        kl=interval("kl"),
        agreement=interval("agreement"),
        top1_drop=None if fields["top1_drop"] is None else interval("top1_drop"),
    )
