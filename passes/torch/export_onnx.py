"""Export to ONNX by torch's dynamo exporter, with a dynamic batch.

The exporter's own optimiser folds shape arithmetic. What it writes down about the machine and the
source code is removed, so that equal models give equal bytes, and every node gets a name that a
user can address: the path of the module it comes from ("conv1", "layer1.0.act"). Where a module
becomes several nodes, the one with the weights (else the last) has the path itself, and the others
are "path/Op"; nodes of no module are called by their operator.

Details: `opset`, `nodes` (number of them), `operators` (how many of each).
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from rtc.compiler.core.errors import InternalError, ModelError, first_line
from rtc.compiler.core.operators import WEIGHTED, op_of
from rtc.compiler.core.passes import Exact, Pass, PassContext, PassResult
from rtc.compiler.core.unit import Level, OnnxModel, Signature, Unit
from rtc.passes.support.quiet import quiet
from rtc.passes.torch.torch_module import build, need

if TYPE_CHECKING:
    import onnx
    from torch import nn

_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True, kw_only=True)
class ExportOnnx(Pass):
    """Export the PyTorch model to ONNX, with a dynamic batch.

    Attributes:
        opset: ONNX operator set.
    """

    name: ClassVar[str] = "export-onnx"
    takes: ClassVar[Level] = Level.TORCH
    gives: ClassVar[Level] = Level.ONNX
    uses: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")

    opset: Annotated[int, Field(ge=18, le=23)] = 20

    @property
    def bound(self) -> Exact:
        """Two runtimes sum in different orders: after a ResNet-50, logits differ by 2e-5."""
        return Exact(atol=1e-4, rtol=1e-3)

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        import onnx

        model = _export(build(unit.torch), unit.signature, self.opset, unit.torch.factory)
        _name_nodes(model.graph)
        _strip(model)
        onnx.checker.check_model(model, full_check=True)
        _check_interface(model.graph, unit.signature, unit.torch.factory)
        operators = Counter(node.op_type for node in model.graph.node)
        nodes = sum(operators.values())
        return PassResult(
            unit=Unit(OnnxModel(model.SerializeToString(deterministic=True)), unit.signature),
            modified=True,
            summary=f"{nodes} nodes, opset {self.opset}",
            details={"opset": self.opset, "nodes": nodes, "operators": dict(operators)},
        )


def _export(module: nn.Module, signature: Signature, opset: int, where: str) -> onnx.ModelProto:
    """The exporter's model.

    Raises:
        ModelError: the exporter cannot trace or translate the module.
    """
    need("onnxscript")
    import torch

    spec = signature.inputs[0]
    # A batch of 2: the exporter takes a dimension of 1 for a constant.
    sample = torch.zeros(2, *(int(size) for size in spec.shape[1:]))
    try:
        with quiet():
            program = torch.onnx.export(
                module,
                (sample,),
                dynamo=True,
                opset_version=opset,
                input_names=[spec.name],
                output_names=[output.name for output in signature.outputs],
                dynamic_shapes=({0: torch.export.Dim(str(spec.shape[0]))},),
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError) as cause:
        raise ModelError(
            "the model cannot be exported to ONNX",
            where=where,
            seen=_reason(cause),
            fix="remove control flow on values from the module's forward",
            id="export",
        ) from cause
    assert program is not None, "the dynamo exporter gives a program"
    proto: onnx.ModelProto = program.model_proto
    return proto


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node its module's path; see the module's docstring."""
    weights = {tensor.name for tensor in graph.initializer}
    by_module: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        by_module[_module_of(node, weights)].append(node)
    taken: set[str] = set()
    for path, nodes in by_module.items():
        weighted = (node for node in nodes if op_of(node) in WEIGHTED)
        main = next(weighted, nodes[-1]) if path else None
        for node in nodes:
            wanted = path if node is main else f"{path}/{node.op_type}".lstrip("/")
            node.name = next(name for name in _numbered(wanted) if name not in taken)
            taken.add(node.name)


def _module_of(node: onnx.NodeProto, weights: set[str]) -> str:
    """The path of the module that a node comes from; "" for the model itself."""
    if op_of(node) in WEIGHTED:
        # By the weight's name: a folded normalisation would claim the convolution's scope.
        owned = [name for name in node.input if name in weights and name.endswith(".weight")]
        if owned:
            return str(owned[0]).removesuffix(".weight")
    # From the model ("") inwards, and the operator last: ['', 'features', 'features.0', 'conv2d'].
    scopes = next((prop.value for prop in node.metadata_props if prop.key == _SCOPES), "[]")
    return str(["", "", *ast.literal_eval(scopes)][-2])


def _numbered(name: str) -> Iterator[str]:
    """`name`, then name_1, name_2, …"""
    yield name
    number = 1
    while True:
        yield f"{name}_{number}"
        number += 1


def _strip(model: onnx.ModelProto) -> None:
    """Remove stack traces, paths and everything else that says where the model was exported."""
    for part in _parts(model):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _parts(model: onnx.ModelProto) -> Iterator[Any]:
    """The model, and everything in its graphs that carries metadata."""
    yield model
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        yield from (graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
        for node in graph.node:
            yield node
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _check_interface(graph: onnx.GraphProto, signature: Signature, where: str) -> None:
    """Inputs and outputs are the signature's, so every weight is an initializer.

    Raises:
        ModelError: the batch came out as a constant.
    """
    seen = [value.name for value in (*graph.input, *graph.output)]
    wanted = [tensor.name for tensor in (*signature.inputs, *signature.outputs)]
    if seen != wanted:
        raise InternalError(
            "the exporter renamed the model's inputs or outputs",
            where=where,
            seen=", ".join(seen),
            expected=", ".join(wanted),
        )
    batch = graph.output[0].type.tensor_type.shape.dim[0]
    if not batch.dim_param:
        raise ModelError(
            "the model fixes its batch",
            where=where,
            seen=str(batch.dim_value),
            expected="any batch",
            fix="use the input's own size in reshapes",
            id="export",
        )


def _reason(error: BaseException) -> str:
    """The first line of the error at the root of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
