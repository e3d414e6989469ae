"""A model with one residual Add between two INT8 layers, and the ranges that suit it.

As in `one_layer`, what is made is what `insert-qdq` makes of a plan that names little else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rtc.calibration.sensitivity import Alternative
from rtc.compiler.core.data import Split
from rtc.compiler.core.passes import PassContext, Statistics
from rtc.compiler.core.precision import (
    LayerDecision,
    Precision,
    PrecisionPlan,
    ResidualPolicy,
)
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.passes.quantise.one_layer import skeleton
from rtc.passes.quantise.qdq import names_in
from rtc.passes.support.layers import origin, output_of
from rtc.passes.support.onnx_graph import read
from rtc.passes.support.residuals import Residual, residuals

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs


def ranges_around(
    unit: Unit, ctx: PassContext, adds: Sequence[Residual], split: Split
) -> dict[str, Statistics]:
    """The ranges around each of some Adds of a float model, by the Add's name."""
    import onnx

    from rtc.calibration.segmented import matched_ranges_beside

    graph, changes = read(unit).cleanup(), {}
    model = onnx.load_model_from_string(unit.onnx.proto)
    for add in adds:
        made = beside_one_add(model, unit, add, ResidualPolicy.RECALIBRATED, ctx)
        nodes = read(replace(unit, model=OnnxModel(made.proto)))
        changes[made] = names_in(nodes, graph, _around(graph, add))
    return matched_ranges_beside(
        unit.onnx.proto, changes, ctx.statistics, split, progress=ctx.progress
    )


def beside_one_add(
    model: onnx.ModelProto, unit: Unit, add: Residual, policy: ResidualPolicy, ctx: PassContext
) -> Alternative:
    """The model with one policy on one Add between two INT8 layers, by the context's ranges."""
    plan = ctx.planned()
    decision = replace(plan.residuals[add.name], policy=policy)
    integer = list(add.ends)
    if ctx.where().scheme.quantise_outputs and policy is not ResidualPolicy.KEEP_HALF:
        integer.append(add.name)
    around: PrecisionPlan = replace(
        plan,
        default=Precision.FP32,
        layers={name: LayerDecision(Precision.INT8, "around one Add") for name in integer},
        residuals={add.name: decision},
    )
    changed = InsertQdq().apply(skeleton(model, unit, *add.ends), replace(ctx, plan=around)).unit
    return Alternative(add.name, Precision.INT8, changed.onnx.proto)


def _around(graph: gs.Graph, add: Residual) -> list[str]:
    """Names of both branches of an Add and of its output, as their ranges go by."""
    here = next(residual for residual in residuals(graph) if residual.name == add.name)
    tensors = (here.branch, here.skip, output_of(graph, here.node))
    return list(dict.fromkeys(origin(tensor).name for tensor in tensors))
