# The part of onnx-graphsurgeon 0.6 that rtc uses, typed: the library ships no types.

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx

class Tensor:
    name: str
    inputs: list[Node]  # what makes it
    outputs: list[Node]  # what reads it
    dtype: npt.DTypeLike | None
    shape: Sequence[int | str | None] | None
    def is_empty(self) -> bool: ...
    def to_constant(self, values: npt.NDArray[Any]) -> Constant: ...

class Variable(Tensor):
    def __init__(
        self,
        name: str,
        dtype: npt.DTypeLike | None = None,
        shape: Sequence[int | str | None] | None = None,
    ) -> None: ...
    @staticmethod
    def empty() -> Variable: ...

class Constant(Tensor):
    values: npt.NDArray[Any]
    @property
    def shape(self) -> tuple[int, ...]: ...  # type: ignore[override]
    def __init__(self, name: str, values: npt.NDArray[Any]) -> None: ...

class Node:
    op: str
    name: str
    attrs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    domain: str | None
    def __init__(
        self,
        op: str,
        name: str | None = None,
        attrs: Mapping[str, Any] | None = None,
        inputs: Sequence[Tensor] | None = None,
        outputs: Sequence[Tensor] | None = None,
        domain: str | None = None,
    ) -> None: ...
    def i(self, tensor_idx: int = 0, producer_idx: int = 0) -> Node: ...
    def o(self, consumer_idx: int = 0, tensor_idx: int = 0) -> Node: ...

class Graph:
    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    opset: int
    ir_version: int
    import_domains: Sequence[onnx.OperatorSetIdProto] | None
    def tensors(self, check_duplicates: bool = False) -> dict[str, Tensor]: ...
    def toposort(self) -> Graph: ...
    def cleanup(self, remove_unused_graph_inputs: bool = False) -> Graph: ...
    def copy(self) -> Graph: ...
    def subgraphs(self, recursive: bool = False) -> Sequence[Graph]: ...

def import_onnx(onnx_model: onnx.ModelProto) -> Graph: ...
def export_onnx(graph: Graph, do_type_check: bool = True) -> onnx.ModelProto: ...
