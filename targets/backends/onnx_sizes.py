"""How large an ONNX model's tensors are for each sample of a batch, by ONNX shape inference.

The batch is written into the graph's inputs as a prime that no real dimension is a multiple of, so
an inferred axis holds the batch exactly where that prime divides it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import prod
from typing import TYPE_CHECKING

from rtc.compiler.core.operators import WEIGHTED, is_onnx, op_of
from rtc.compiler.core.tensors import BATCH, Shape, known_shapes, types_at

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_UNCOUNTED = frozenset({"Attention", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"})
_MATRIX = 2  # axes
_LARGEST_PADDING = 4  # one channel to four; nothing is padded further


@dataclass(frozen=True)
class Sizes:
    """Shapes and element types (of `onnx.TensorProto`) by tensor name.

    `batch` is what stands for the batch in the shapes: `BATCH`, or the graph's own fixed batch.
    """

    batch: int
    shapes: Mapping[str, Shape]
    types: Mapping[str, int]

    @classmethod
    def infer(cls, model: ModelProto) -> Sizes:
        """Sizes of every tensor that ONNX can infer; those that it cannot are left out."""
        types = types_at(model, BATCH)
        shapes = {name: shape for name, shape in known_shapes(types).items() if 0 not in shape}
        constants = {tensor.name for tensor in model.graph.initializer}
        inputs = {value.name for value in model.graph.input} - constants
        batches = {shapes[name][0] for name in inputs & shapes.keys() if shapes[name]}
        kinds = {name: kind.kind for name, kind in types.items()}
        return cls(max(batches, default=BATCH), shapes, kinds)

    def flops(self, node: NodeProto) -> int | None:
        """Multiply-accumulates × 2 of a node for each sample; None where they are not known.

        Convolutions and matrix products count; what other operators compute is bound by the bytes
        that they move.
        """
        if op_of(node) in _UNCOUNTED or not is_onnx(node):
            return None
        if op_of(node) not in WEIGHTED:
            return 0
        try:
            first, second, out = (
                self.shapes[name] for name in (node.input[0], node.input[1], node.output[0])
            )
        except KeyError:
            return None
        batched = self.batch if prod(out) % self.batch == 0 else 1
        if op_of(node) == "ConvTranspose":
            return 2 * prod(first) * prod(second[1:]) // batched
        if op_of(node) == "Conv":
            return 2 * prod(out) * prod(second[1:]) // batched
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return 2 * prod(out) * (first[0] if transposed else first[-1]) // batched


def elements_per_sample(view: Shape, shapes: Iterable[Shape]) -> int | None:
    """Elements for each sample of a tensor that a runtime shows as `view`; None if not certain.

    A runtime shows the axis that holds the batch as -1. That axis may hold more than the batch:
    (197, N, 768) becomes (-1, 768). So the view is matched with the ONNX tensors that it can be
    one of: those that agree axis for axis (a matrix does not count: anything can be made one), or
    else after neighbouring axes are merged; failing these, smaller ones that the runtime has
    padded. All that match must have the same size.

        (-1, 400) of (N, 16, 5, 5)                    → 400
        (-1, 768) of (197, N, 768)                    → 197 · 768
        (-1, 4, 224, 224) of (N, 3, 224, 224), padded → 4 · 224 · 224
        (-1, 768) of (N, 768) or (197, N, 768)        → None
    """
    if view.count(-1) != 1:
        return None
    candidates = tuple(shapes)
    for padding in (1, _LARGEST_PADDING):
        if len(view) > _MATRIX and any(_same_axes(view, shape, padding) for shape in candidates):
            return -prod(view)
        counts = {n for shape in candidates for n in _merged_axes(view, shape, padding)}
        if counts:
            return counts.pop() if len(counts) == 1 else None
    return None


def _same_axes(view: Shape, shape: Shape, padding: int) -> bool:
    return len(view) == len(shape) and all(
        dim == BATCH if seen == -1 else dim <= seen <= dim * padding
        for seen, dim in zip(view, shape, strict=True)
    )


def _without_ones(shape: Shape) -> Shape:
    return tuple(dim for dim in shape if dim != 1)


def _merged_axes(view: Shape, shape: Shape, padding: int) -> set[int]:
    """Elements per sample of `view`, for each way in which merged axes of `shape` give it."""
    view, axes = _without_ones(view), _without_ones(shape)
    if len(axes) < len(view):
        return set()
    counts = set()
    for cuts in combinations(range(1, len(axes)), len(view) - 1):
        merged = [prod(axes[a:b]) for a, b in pairwise((0, *cuts, len(axes)))]
        batch = merged[view.index(-1)]
        others = [(m, v) for m, v in zip(merged, view, strict=True) if v != -1]
        if batch % BATCH == 0 and all(m <= v <= m * padding for m, v in others):
            counts.add(batch // BATCH * prod(v for _, v in others))
    return counts
