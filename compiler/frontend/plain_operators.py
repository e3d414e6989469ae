"""ONNX's own operators in place of those that ONNX Runtime's tools write into a model.

    FusedConv, FusedGemm, FusedMatMul     → the product, what is added to it, and the activation
    Gelu, BiasGelu, FastGelu, QuickGelu   → what they are made of
    SkipLayerNormalization, Attention     → likewise; without masks and what was kept from before
    QLinearConv(x, …, y_scale, y_zero)    → QuantizeLinear(Conv(DequantizeLinear(x), …)), and so
                                            for every operator on quantised tensors

No other runtime knows them, and rtc would see no layer in them. Products that quantise what they
read while the model runs stay: their integers have no fixed scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rtc.calibration.oracle import Oracle, expose
from rtc.calibration.quantise import QDQ_OPSET
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import filled
from rtc.compiler.core.errors import first_line
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.parts import add_beside, write_parts
from rtc.compiler.core.protos import nodes
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.compiler.frontend.fused_operators import FUSED
from rtc.compiler.frontend.quantised_operators import QUANTISED
from rtc.compiler.frontend.source import to_bytes
from rtc.passes.graph.constant_nodes import to_initialisers

if TYPE_CHECKING:
    import onnx

_SAME = 1e-4  # of the largest answer: what other kernels round
_ONE_STEP = 1  # a sum between two steps of a quantised tensor may be rounded either way
_FEW = 4  # samples that every replaced node is looked at on, or a batch of them
_LISTED = 3  # nodes that a note gives
_STAY = "Operators that ONNX Runtime alone has stay"
_FORMS = FUSED | QUANTISED


def in_plain_operators(unit: Unit, samples: Array) -> tuple[Unit, str]:
    """The model in ONNX's own operators, wherever these give what the node gave.

    Each is held to the node that it replaces, on the integers or floats that this one reads: in a
    deep network one sum that is rounded the other way moves all that follows.

    Args:
        unit: its opset is settled.
        samples: real ones (n, …).

    Returns:
        The unit, and what a reader must know of operators that stay; else "".
    """
    import onnx

    model = onnx.load_model_from_string(unit.onnx.proto)
    if not any(op_of(node) in _FORMS for node in nodes(model)):
        return unit, ""
    own = next((opset.version for opset in model.opset_import if not opset.domain), 1)
    if own < QDQ_OPSET:
        return unit, f"{_STAY}: opset {own} has no others for them."
    to_initialisers(model.graph)
    written = write_parts(model, _FORMS, _differing(model, unit, samples))
    note = f"{_STAY}: {_some(written.left)}." if written.left else ""
    if not written.operators:
        return unit, note
    _drop_unread(model)
    onnx.checker.check_model(model, full_check=True)
    return Unit(OnnxModel(to_bytes(model)), unit.signature), note


def _differing(model: onnx.ModelProto, unit: Unit, samples: Array) -> dict[str, str]:
    """Nodes whose parts give something else than they do, or that cannot be compared, and why."""
    import onnx

    both = onnx.ModelProto()
    both.CopyFrom(model)
    pairs = add_beside(both, _FORMS)
    made = [name for pair in pairs.values() for name in (*pair, *pair.values())]
    inner = {node.name: "it stands in a branch or a loop" for node in nodes(model)}
    batch = filled(samples[:_FEW], unit.fixed_batch or 1)
    try:
        with Oracle(expose(to_bytes(both), both.graph, made), made) as oracle:
            seen = oracle.run(batch[: unit.fixed_batch or _FEW])
    except Exception as cause:  # noqa: BLE001 - the runtime's errors have no common public class
        return dict.fromkeys(inner, f"it cannot be compared ({first_line(cause)})")
    others = {
        name: "ONNX's give other answers"
        for name, pair in pairs.items()
        if not all(_alike(seen[old], seen[new]) for old, new in pair.items())
    }
    return {name: why for name, why in inner.items() if name not in pairs} | others


def _alike(wanted: Array, seen: Array) -> bool:
    if wanted.shape != seen.shape or wanted.dtype != seen.dtype:
        return False
    apart = np.abs(wanted.astype(np.float64) - seen).max(initial=0)
    largest = np.abs(wanted.astype(np.float64)).max(initial=0)
    return bool(apart <= (_SAME * largest if wanted.dtype.kind == "f" else _ONE_STEP))


def _some(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return "; ".join(names[:_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _drop_unread(model: onnx.ModelProto) -> None:
    """Drop constants and domains that nothing refers to now."""
    used = {name for node in nodes(model) for name in node.input}
    used |= {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    domains = {node.domain for node in nodes(model)} | {""}
    imported = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(imported)
    del model.graph.value_info[:]
