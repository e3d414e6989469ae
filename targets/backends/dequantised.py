"""What takes the place of the nodes that make floats of constant 8-bit integers (DequantizeLinear).

The integers as they are stored, the same less their zero points, and numbers that show the order in
which a product reads them. Nodes and arrays go by the tensor that the node makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.operators import op_of

if TYPE_CHECKING:
    from onnx import NodeProto

MOST_NUMBERED = 1 << 22
"""Elements that can be numbered."""
_LARGEST = 1 << 24  # up to which float32 holds every whole number

Instead = dict[str, "Sequence[NodeProto]"]


def as_stored(leaving: Mapping[str, NodeProto]) -> Instead:
    """Nodes that hand the integers on as they are."""
    from onnx import helper

    return {
        made: [helper.make_node("Cast", node.input[:1], [made], to=1)]
        for made, node in leaving.items()
    }


def without_scale(leaving: Mapping[str, NodeProto]) -> Instead:
    """Nodes that take zero points off, and scale by 1."""
    from onnx import helper

    instead = as_stored(leaving)
    one = helper.make_tensor("one", 1, [1], [1.0])
    for made, node in leaving.items():
        if op_of(node) != "DequantizeLinear":
            continue
        shape, scale = f"{made}/shape", f"{made}/scale"
        unscaled = helper.make_node(
            "DequantizeLinear", [node.input[0], scale, *node.input[2:]], [made], domain=node.domain
        )
        unscaled.attribute.extend(a for a in node.attribute if a.name in ("axis", "block_size"))
        instead[made] = [
            helper.make_node("Shape", [node.input[1]], [shape]),
            helper.make_node("ConstantOfShape", [shape], [scale], value=one),
            unscaled,
        ]
    return instead


def numbered(held: Mapping[str, Array], given: Array) -> Instead:
    """Nodes that hand numbers (n,) on in the place of the n integers that are held."""
    from onnx import helper, numpy_helper

    cuts = np.cumsum([tensor.size for tensor in held.values()])[:-1]
    parts = zip(held.items(), np.split(given, cuts), strict=True)
    tensors = {name: numpy_helper.from_array(n.reshape(each.shape)) for (name, each), n in parts}
    return {
        name: [helper.make_node("Constant", [], [name], value=tensor)]
        for name, tensor in tensors.items()
    }


def numbers(count: int) -> Array:
    """Different numbers, float32 (count,): what is computed of some is hardly ever others of them.

    Signs are drawn, and so are the steps in which the absolute values grow.
    """
    rng = np.random.default_rng(0)
    steps = rng.integers(1, _LARGEST // max(1, count), count, endpoint=True)
    values: Array = (np.cumsum(steps) * rng.choice([-1, 1], count)).astype(np.float32)
    return values


def places(found: Array, given: Array) -> Array | None:
    """Where `found` stand among the numbers `given` (n,), n for zeros that were put between.

    None where some are neither.
    """
    at = np.searchsorted(np.abs(given), np.abs(found))
    at[found == 0] = len(given)
    return at if np.array_equal(np.append(given, 0)[at], found) else None


def in_a_row(values: Mapping[str, Array]) -> Array:
    """All elements, int16 (n + 1,), and a zero behind them."""
    rows = [value.ravel() for value in values.values()]
    return np.concatenate([*rows, np.zeros(1)]).astype(np.int16)
