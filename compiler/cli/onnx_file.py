"""What `rtc inspect` shows of an ONNX file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtc.compiler.cli.answer import Answer, printable
from rtc.compiler.core.unit import Signature, TensorSpec, Unit

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Contents:
    """An ONNX file in figures.

    Attributes:
        opset: of the default domain; 0 where the file names none.
        operators: nodes by operator.
        parameters: numbers in initialisers by data type.
        nodes: (name, operator, inputs, outputs) of each, in the file's order.
    """

    producer: str
    opset: int
    signature: Signature
    size: int
    operators: dict[str, int]
    parameters: dict[str, int]
    nodes: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...]


def inspect_onnx(path: Path, *, layers: bool) -> Answer:
    """Read and check an ONNX file, and show what is in it.

    Raises:
        ModelError: it cannot be read, or is not what it says.
    """
    from rtc.compiler.core.errors import ModelError
    from rtc.compiler.source import onnx_as_it_is

    if not path.is_file():
        raise ModelError("there is no such file", where=str(path), id="missing-file")
    found = contents(onnx_as_it_is(path))
    return Answer(_document(path, found), _drawn(path, found, layers))


def contents(unit: Unit) -> Contents:
    """Count what a model holds."""
    import onnx

    model = onnx.load_from_string(unit.onnx.proto)
    graph = model.graph
    parameters: Counter[str] = Counter()
    for tensor in graph.initializer:
        name = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        parameters[name] += prod(tensor.dims)
    return Contents(
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        opset=next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0),
        signature=unit.signature,
        size=len(unit.onnx.proto),
        operators=dict(Counter(node.op_type for node in graph.node).most_common()),
        parameters=dict(parameters.most_common()),
        nodes=tuple((n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in graph.node),
    )


def _document(path: Path, found: Contents) -> dict[str, Any]:
    return {
        "onnx": str(path),
        "producer": found.producer,
        "opset": found.opset,
        "bytes": found.size,
        "signature": found.signature.to_dict(),
        "operators": found.operators,
        "parameters": found.parameters,
        "nodes": [
            {"name": name, "op": op, "inputs": list(inputs), "outputs": list(outputs)}
            for name, op, inputs, outputs in found.nodes
        ],
    }


def _drawn(path: Path, found: Contents, layers: bool) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(printable(_head(path, found)))]
    parts += [Text(line) for line in _sides(found.signature)]
    parameters = ", ".join(f"{count:,} {kind}" for kind, count in found.parameters.items())
    parts.append(Text(f"parameters  {parameters or 'none'}"))
    counts = Table("operator", "nodes", box=SIMPLE_HEAD)
    for op, count in found.operators.items():
        counts.add_row(Text(printable(op)), str(count))
    parts.append(counts)
    if layers:
        nodes = Table("node", "operator", "inputs", "outputs", box=SIMPLE_HEAD)
        for name, op, inputs, outputs in found.nodes:
            words = (name, op, ", ".join(inputs), ", ".join(outputs))
            nodes.add_row(*(Text(printable(word), overflow="fold") for word in words))
        parts.append(nodes)
    return Group(*parts)


def _head(path: Path, found: Contents) -> str:
    by = f", by {found.producer}" if found.producer else ""
    return f"{path}: opset {found.opset}, {found.size:,} bytes{by}"


def _sides(signature: Signature) -> list[str]:
    def line(side: str, spec: TensorSpec) -> str:
        shape = ", ".join(map(str, spec.shape))
        return printable(f"{side:<10}  {spec.name}: {spec.dtype} ({shape})")

    inputs = [line("input", spec) for spec in signature.inputs]
    return inputs + [line("output", spec) for spec in signature.outputs]
