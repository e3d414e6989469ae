"""The contract: the planned precision of every layer against what the builder made of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from rtc.compiler.core.operators import WEIGHTED
from rtc.compiler.core.precision import LayerDecision, Precision, PrecisionPlan
from rtc.compiler.core.results import LayerRow
from rtc.compiler.core.target import BuiltLayer
from rtc.compiler.core.verdicts import LayerVerdict


def contract(
    plan: PrecisionPlan, layers: Sequence[BuiltLayer], shapes: Mapping[str, str]
) -> tuple[LayerRow, ...]:
    """One row for each planned layer, in plan order.

    Args:
        plan: what was asked for, by ONNX node name.
        layers: what the builder reports, each with the ONNX nodes fused into it.
        shapes: the output shape of each layer as text, for the report.
    """
    owners: dict[str, list[BuiltLayer]] = {}
    for layer in layers:
        for node in layer.onnx_nodes:
            owners.setdefault(node, []).append(layer)
    return tuple(
        _row(name, decision, owners.get(name, ()), shapes.get(name, ""))
        for name, decision in plan.layers.items()
    )


def changed(rows: Iterable[LayerRow]) -> tuple[LayerRow, ...]:
    """The layers that the builder silently runs in another precision than planned."""
    return tuple(row for row in rows if row.verdict is LayerVerdict.CHANGED)


def unknown(rows: Iterable[LayerRow]) -> tuple[LayerRow, ...]:
    """The layers whose built precision the builder does not tell; nothing proves their plan."""
    return tuple(row for row in rows if row.verdict is LayerVerdict.UNKNOWN)


def _row(name: str, decision: LayerDecision, owners: Sequence[BuiltLayer], shape: str) -> LayerRow:
    precisions = [owner.precision_of.get(name, owner.precision) for owner in owners]
    built = _widest(precisions)
    kinds = {owner.kind for owner, own in zip(owners, precisions, strict=True) if own is built}
    verdict, why = _judge(decision, built, kinds)
    return LayerRow(
        name=name,
        op=decision.op,
        shape=shape,
        planned=decision.precision.value,
        built=built.value if built else "",
        verdict=verdict,
        reason=f"{decision.because}; {why}" if why else decision.because,
        snr_db=decision.snr_db,
        pinned=decision.pinned,
    )


def _widest(precisions: Iterable[Precision | None]) -> Precision | None:
    """The widest precision among the kernels that carry a layer; None where none computes."""
    width = list(Precision)  # from the widest to the narrowest
    return min((each for each in precisions if each is not None), key=width.index, default=None)


def _judge(
    decision: LayerDecision, built: Precision | None, kinds: Collection[str]
) -> tuple[LayerVerdict, str]:
    if built is None and decision.op in WEIGHTED:  # weights are multiplied somewhere
        return LayerVerdict.UNKNOWN, "the builder names no kernel that computes it"
    if built is None:
        return LayerVerdict.FOLDED, "" if kinds else "the builder lists no kernel for it"
    as_it_came = decision.came_quantised and built is Precision.INT8
    if built is decision.precision or as_it_came:
        return LayerVerdict.KEPT, ""
    free = decision.op not in WEIGHTED and not decision.pinned
    if free and built is Precision.INT8:
        # Between Q/DQ pairs of the layers around it: the graph has its values in integers, too.
        why = f"planned {decision.precision}, runs on its neighbours' INT8 values"
        return LayerVerdict.FOLLOWS, why
    kernels = ", ".join(sorted(kinds))
    why = f"planned {decision.precision}, the builder runs {built} ({kernels})"
    return LayerVerdict.CHANGED, why
