"""Products of 8-bit integers in numpy's int64: what every operator for them must give."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper, numpy_helper

SIGNED = {"u8": np.uint8, "s8": np.int8}


def extreme(
    rng: np.random.Generator, kind: str, shape: tuple[int, ...], mostly: float = 0.9
) -> np.ndarray:
    """8-bit numbers, most of them at the ends of their range."""
    info = np.iinfo(SIGNED[kind])
    anywhere = rng.integers(info.min, info.max + 1, shape)
    ends = rng.choice([info.min, info.max, info.max], shape)
    return np.where(rng.random(shape) < mostly, ends, anywhere).astype(info.dtype)


def wide(array: np.ndarray, zero: np.ndarray | int = 0) -> np.ndarray:
    return array.astype(np.int64) - np.asarray(zero).astype(np.int64)


def convolution(
    x: np.ndarray, w: np.ndarray, *, group: int = 1, pads: int = 0, stride: int = 1
) -> np.ndarray:
    """int64 (N, O, H, W) of what is zero-centred already; padded with zeros on every side."""
    n, channels = x.shape[:2]
    padded = np.pad(x, ((0, 0), (0, 0), (pads, pads), (pads, pads)))
    windows = sliding_window_view(padded, w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    inside, out = channels // group, len(w) // group
    parts = [
        np.einsum(
            "nchwij,ocij->nohw",
            windows[:, g * inside : (g + 1) * inside],
            w[g * out : (g + 1) * out],
        )
        for g in range(group)
    ]
    return np.concatenate(parts, axis=1).reshape(n, len(w), *parts[0].shape[2:])


def requantise(total: np.ndarray, scale: np.ndarray | float, zero: np.ndarray) -> np.ndarray:
    """saturate(round(total · scale) + zero), ties to even, in zero's type."""
    info = np.iinfo(zero.dtype)
    rounded = np.rint(total * np.asarray(scale, np.float64)) + int(zero)
    return np.clip(rounded, info.min, info.max).astype(zero.dtype)


def one_node(
    op: str,
    feeds: dict[str, np.ndarray],
    constants: dict[str, np.ndarray],
    order: str,
    *,
    gives: int,
    domain: str = "",
    opset: int = 17,
    **attributes: object,
) -> bytes:
    """A model of one node that reads `order`, names in it or "-" for an input not given."""
    names = ["" if name == "-" else name for name in order.split()]
    node = helper.make_node(op, names, ["y"], "node", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in feeds.items()
        ],
        [helper.make_tensor_value_info("y", gives, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def operators(proto: bytes) -> set[str]:
    """Every operator of a model whose functions stand in the calls' place."""
    from onnx import inliner

    model = inliner.inline_local_functions(onnx.load_model_from_string(proto))
    return {node.op_type for node in model.graph.node}
