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

from rtc.calibration.quantise import QDQ_OPSET
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.parts import write_parts
from rtc.compiler.core.protos import nodes
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.compiler.frontend.fused_operators import FUSED
from rtc.compiler.frontend.quantised_operators import QUANTISED
from rtc.compiler.frontend.same_answers import give_the_same
from rtc.compiler.frontend.source import to_bytes
from rtc.passes.graph.constant_nodes import to_initialisers

if TYPE_CHECKING:
    import onnx

_SAME = 1e-3  # of the answers' spread: what other kernels round
_SAME_STEPS = 2e-2  # the same where a quantised sum may be rounded the other way
_LISTED = 3  # nodes that a note gives
_STAY = "Operators that ONNX Runtime alone has stay"
_FORMS = FUSED | QUANTISED


def in_plain_operators(unit: Unit, samples: Array, sizes: Sequence[int]) -> tuple[Unit, str]:
    """The model in ONNX's own operators as far as they can say it, if it then gives the same.

    Args:
        unit: its opset is settled.
        samples: real ones (n, …).
        sizes: batches to try; the first that the model runs is compared in.

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
    written, left = write_parts(model, _FORMS)
    note = f"{_STAY}: {_some(left)}." if left else ""
    if not written:
        return unit, note
    _drop_unread(model)
    onnx.checker.check_model(model, full_check=True)
    changed = Unit(OnnxModel(to_bytes(model)), unit.signature)
    within = _SAME_STEPS if written & QUANTISED.keys() else _SAME
    if give_the_same(unit, changed, samples, sizes, within):
        return changed, note
    kinds = ", ".join(sorted(kind.rpartition(".")[2] for kind in written))
    return unit, f"{_STAY} ({kinds}): ONNX's give other answers."


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
