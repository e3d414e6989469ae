"""What `rtc inspect` shows of an ONNX file: any that can be parsed, compiled or not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtc.compiler.cli.answer import Answer, printable
from rtc.compiler.core.operators import op_of
from rtc.compiler.process import sandbox

if TYPE_CHECKING:
    from onnx import ModelProto, TypeProto, ValueInfoProto
    from rich.console import RenderableType


@dataclass(frozen=True)
class TensorInfo:
    """An input or output.

    Attributes:
        dtype: numpy's name, or like "sequence(float32)".
        shape: an int where fixed, a str where not; None where nothing is told.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class Contents:
    """An ONNX file in figures.

    Attributes:
        opset: of the default domain; 0 where the file names none.
        domains: the opsets of all domains.
        functions: the model's own operators.
        operators: nodes by operator, those of branches, loops and functions too.
        parameters: numbers in initialisers and Constant nodes by data type, nested ones too.
        beside: files that weights lie in.
        nodes: (name, operator, inputs, outputs) of each of the graph itself, in the file's order.
        flaw: what ONNX's checker finds wrong, or "".
    """

    producer: str
    ir: int
    opset: int
    domains: dict[str, int]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    functions: tuple[str, ...]
    operators: dict[str, int]
    parameters: dict[str, int]
    beside: tuple[str, ...]
    nodes: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...]
    flaw: str


def inspect_onnx(path: Path, *, layers: bool) -> Answer:
    """Read an ONNX file in a child process, and show what is in it.

    Raises:
        ModelError: it cannot be read.
    """
    from pydantic import TypeAdapter

    from rtc.compiler.core.errors import ModelError
    from rtc.compiler.frontend.model_files import MODEL, PARSE_GB, PARSE_SECONDS, reading

    if not path.is_file():
        raise ModelError("there is no such file", where=str(path), id="missing-file")
    proto = path.read_bytes()
    if not proto:
        raise ModelError("the ONNX file is empty", where=str(path), id="empty-model")
    with reading(path):
        made = sandbox.run(
            "rtc.compiler.cli.onnx_file:read_contents",
            files={MODEL: proto},
            args={},
            deadline_s=PARSE_SECONDS,
            memory_gb=PARSE_GB,
            what=f"reading {path.name}",
        )
    listing = TypeAdapter(Contents).validate_json(made["contents.json"])
    beside = {name: _state(path.parent, name) for name in listing.beside}
    document = _document(path, len(proto), listing, beside)
    return Answer(document, _drawn(document, listing, layers))


def _state(folder: Path, location: str) -> dict[str, Any]:
    """How large a file of weights is, or why it cannot be read."""
    from rtc.compiler.core.errors import ModelError
    from rtc.compiler.frontend.model_files import size_of

    try:
        return {"file": location, "bytes": size_of(folder, location), "problem": ""}
    except ModelError as error:
        missing = error.id == "missing-external-data"
        return {"file": location, "bytes": 0, "problem": "missing" if missing else error.seen}


def read_contents(files: Mapping[str, bytes], _: Mapping[str, Any]) -> dict[str, bytes]:
    """Count what a model holds; runs in a child process."""
    from rtc.compiler.frontend.model_files import MODEL, parse, refusing_nonsense

    with refusing_nonsense():
        return {"contents.json": json.dumps(asdict(contents(parse(files[MODEL])))).encode()}


def contents(model: ModelProto) -> Contents:
    """Count what a model holds."""
    from rtc.compiler.core.protos import is_outside, nodes, tensors
    from rtc.compiler.frontend.model_files import entry

    constants = {tensor.name for tensor in model.graph.initializer}
    domains = {opset.domain: opset.version for opset in model.opset_import}
    locations = {entry(t).get("location", ""): None for t in tensors(model) if is_outside(t)}
    return Contents(
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        ir=model.ir_version,
        opset=domains.get("", domains.get("ai.onnx", 0)),
        domains={domain or "ai.onnx": version for domain, version in domains.items()},
        inputs=tuple(_side(v) for v in model.graph.input if v.name not in constants),
        outputs=tuple(_side(v) for v in model.graph.output),
        functions=tuple(f"{f.domain}::{f.name}" for f in model.functions),
        operators=dict(Counter(node.op_type for node in nodes(model)).most_common()),
        parameters=_parameters(model),
        beside=tuple(locations),
        nodes=tuple((n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in model.graph.node),
        flaw=_flaw(model),
    )


def _parameters(model: ModelProto) -> dict[str, int]:
    """Numbers by data type, of initialisers, Constant nodes and sparse constants."""
    import onnx

    counts: Counter[str] = Counter()
    for kind, count in _numbers(model):
        counts[onnx.TensorProto.DataType.Name(kind).lower()] += count
    return dict(counts.most_common())


def _numbers(model: ModelProto) -> Iterator[tuple[int, int]]:
    import onnx

    from rtc.compiler.core.protos import bodies, sparse_tensors

    lists = {"value_float": 1, "value_floats": 1, "value_int": 7, "value_ints": 7}
    lists |= {"value_string": 8, "value_strings": 8}
    for body in bodies(model):
        for tensor in getattr(body, "initializer", ()):
            yield tensor.data_type, prod(tensor.dims)
        for node in (node for node in body.node if op_of(node) == "Constant"):
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t.data_type, prod(attribute.t.dims)
                elif attribute.name in lists:
                    values = onnx.helper.get_attribute_value(attribute)
                    yield lists[attribute.name], len(values) if isinstance(values, list) else 1
    for sparse in sparse_tensors(model):
        yield sparse.values.data_type, prod(sparse.values.dims)


def _side(value: ValueInfoProto) -> TensorInfo:
    kind, shape = _type(value.type)
    return TensorInfo(value.name, kind, shape)


def _type(kind: TypeProto) -> tuple[str, tuple[int | str, ...] | None]:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(kind, which)
        name = _dtype(tensor.elem_type)
        name = name if which == "tensor_type" else f"sparse({name})"
        return name, _shape(tensor) if tensor.HasField("shape") else None
    if which in ("sequence_type", "optional_type"):
        inner, shape = _type(getattr(kind, which).elem_type)
        return f"{which.removesuffix('_type')}({inner})", shape
    if which == "map_type":
        inner, shape = _type(kind.map_type.value_type)
        return f"map({_dtype(kind.map_type.key_type)}, {inner})", shape
    return which.removesuffix("_type") if which else "unknown", None


def _dtype(elem_type: int) -> str:
    import onnx

    if elem_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        return str(onnx.TensorProto.DataType.Name(elem_type)).lower()
    return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type))


def _shape(tensor: Any) -> tuple[int | str, ...]:
    return tuple(
        dim.dim_param or (dim.dim_value if dim.dim_value > 0 else f"dim{axis}")
        for axis, dim in enumerate(tensor.shape.dim)
    )


def _flaw(model: ModelProto) -> str:
    """The first thing that ONNX's checker finds; weights that lie elsewhere are none."""
    import onnx

    from rtc.compiler.core.errors import first_line
    from rtc.compiler.core.protos import is_outside, tensors

    if any(is_outside(tensor) for tensor in tensors(model)):
        return ""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as cause:  # noqa: BLE001 - its errors have no common public class
        return first_line(cause)
    return ""


def _document(
    path: Path, size: int, listing: Contents, beside: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    return {
        "onnx": str(path),
        "producer": listing.producer,
        "ir_version": listing.ir,
        "opset": listing.opset,
        "domains": listing.domains,
        "bytes": size,
        "beside": list(beside.values()),
        "signature": {
            "inputs": [asdict(side) for side in listing.inputs],
            "outputs": [asdict(side) for side in listing.outputs],
        },
        "functions": list(listing.functions),
        "operators": listing.operators,
        "parameters": listing.parameters,
        "flaw": listing.flaw,
        "nodes": [
            {"name": name, "op": op, "inputs": list(inputs), "outputs": list(outputs)}
            for name, op, inputs, outputs in listing.nodes
        ],
    }


def _drawn(document: Mapping[str, Any], listing: Contents, layers: bool) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(printable(line)) for line in _lines(document, listing)]
    counts = Table("operator", "nodes", box=SIMPLE_HEAD)
    for op, count in listing.operators.items():
        counts.add_row(Text(printable(op)), str(count))
    parts.append(counts)
    if layers:
        nodes = Table("node", "operator", "inputs", "outputs", box=SIMPLE_HEAD)
        for name, op, inputs, outputs in listing.nodes:
            words = (name, op, ", ".join(inputs), ", ".join(outputs))
            nodes.add_row(*(Text(printable(word), overflow="fold") for word in words))
        parts.append(nodes)
    return Group(*parts)


def _lines(document: Mapping[str, Any], listing: Contents) -> Iterator[str]:
    by = f", by {listing.producer}" if listing.producer else ""
    yield f"{document['onnx']}: opset {listing.opset}, {document['bytes']:,} bytes{by}"
    others = [f"{name} {n}" for name, n in listing.domains.items() if name != "ai.onnx"]
    if others:
        yield f"domains     {', '.join(others)}"
    for file in document["beside"]:
        size = f"{file['bytes']:,} bytes"
        yield f"weights in  {file['file']}: {file['problem'] or size}"
    for kind, sides in (("input", listing.inputs), ("output", listing.outputs)):
        for side in sides:
            shape = (
                "of unknown shape" if side.shape is None else f"({', '.join(map(str, side.shape))})"
            )
            yield f"{kind:<10}  {side.name}: {side.dtype} {shape}"
    if listing.functions:
        yield f"functions   {', '.join(listing.functions)}"
    parameters = ", ".join(f"{count:,} {kind}" for kind, count in listing.parameters.items())
    yield f"parameters  {parameters or 'none'}"
    if listing.flaw:
        yield f"flaw        {listing.flaw}"
