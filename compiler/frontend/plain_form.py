"""A model from outside in one form, of the several in which a file may say the same.

    domain "ai.onnx"                     → ""; the last version that the file gives is what counts
    weights that are listed as inputs    → weights alone, and IR version 4, the first to allow that
    sizes of -1 or 0 on either side      → sizes that are not known
    types stated of the tensors between  → none: they may be of other sizes or of an older opset

What computes is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtc.compiler.core.operators import ONNX, is_onnx
from rtc.compiler.core.protos import bodies, nodes
from rtc.passes.support.onnx_graph import drop_default_inputs

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto

_WEIGHTS_ALONE = 4  # the IR version


def make_plain(model: ModelProto) -> None:
    """Bring a model into that form, in place."""
    import onnx

    for each in (model, *model.functions):
        _import_once(each)
    for node in nodes(model):
        if is_onnx(node):
            node.domain = ""
    drop_default_inputs(model.graph)
    model.ir_version = min(max(model.ir_version, _WEIGHTS_ALONE), onnx.IR_VERSION)
    for body in bodies(model):
        if len(body.value_info):
            del body.value_info[:]
    _free_sizes_below_one(model)


def _import_once(body: ModelProto | FunctionProto) -> None:
    """The import of ONNX's own operators under one name; of several the last, as runtimes do."""
    own = [opset for opset in body.opset_import if opset.domain in ONNX]
    if not own:
        return
    own[0].domain, own[0].version = "", own[-1].version
    for each in own[1:]:
        body.opset_import.remove(each)


def _free_sizes_below_one(model: ModelProto) -> None:
    """Some exporters write a size that is not known as -1 or 0."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.dim_param = f"{value.name}_{axis}"
