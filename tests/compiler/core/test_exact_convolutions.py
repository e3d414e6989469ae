"""Convolutions of integers written out, against exact arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from integer_kinds import INT32, KINDS, MS, number, run, zero_of
from integer_products import (
    convolution,
    extreme,
    one_node,
    requantise,
    wide,
)

CONVS = {
    "plain": ((2, 8, 5, 5), (6, 8, 3, 3), {}),
    "padded": ((2, 3, 5, 5), (4, 3, 3, 3), {"pads": 1, "stride": 2}),
    "grouped": ((1, 8, 5, 5), (8, 2, 3, 3), {"group": 4, "pads": 1}),
    "depthwise": ((1, 8, 5, 5), (8, 1, 3, 3), {"group": 8}),
    "pointwise": ((1, 1030, 2, 2), (3, 1030, 1, 1), {}),  # cut into pieces, once
    "wide": ((1, 520, 3, 3), (3, 520, 3, 3), {}),  # … on both sides: 4,680 products
    "widest": ((1, 16400, 2, 2), (2, 16400, 2, 2), {}),  # 65,600
}


def attributes(options: dict[str, int], rank: int = 2) -> dict[str, object]:
    return {
        "group": options.get("group", 1),
        "pads": [options.get("pads", 0)] * 2 * rank,
        "strides": [options.get("stride", 1)] * rank,
    }


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize(("x_kind", "w_kind"), KINDS)
def test_conv_integer(x_kind: str, w_kind: str, name: str) -> None:
    x_shape, w_shape, options = CONVS[name]
    rng = np.random.default_rng(4)
    x, w = extreme(rng, x_kind, x_shape), extreme(rng, w_kind, w_shape)
    xz, wz = zero_of(rng, x_kind), zero_of(rng, w_kind)
    proto = one_node(
        "ConvInteger",
        {"x": x},
        {"w": w, "xz": xz, "wz": wz},
        "x w xz wz",
        gives=INT32,
        **attributes(options),
    )
    expected = convolution(wide(x, xz), wide(w, wz), **options)
    np.testing.assert_array_equal(run(proto, {"x": x}), expected)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", list(CONVS)[:4])
@pytest.mark.parametrize(("x_kind", "w_kind"), KINDS)
def test_qlinear_conv(
    x_kind: str, w_kind: str, name: str, per_channel: bool, constant: bool
) -> None:
    x_shape, w_shape, options = CONVS[name]
    rng = np.random.default_rng(5)
    x, w = extreme(rng, x_kind, x_shape), extreme(rng, w_kind, w_shape)
    shape = w_shape[:1] if per_channel else ()
    c = {
        "xs": np.float32(0.021),
        "xz": zero_of(rng, x_kind),
        "ws": rng.uniform(0.002, 0.01, shape).astype(np.float32),
        "wz": zero_of(rng, w_kind, shape),
        "ys": np.float32(0.31),
        "yz": zero_of(rng, x_kind),
        "b": rng.integers(-50_000, 50_000, w_shape[0]).astype(np.int32),
    }
    feeds = {"x": x} if constant else {"x": x, "w": w}
    proto = one_node(
        "QLinearConv",
        feeds,
        {**c, "w": w} if constant else c,
        "x xs xz w ws wz ys yz b",
        gives=number(x_kind),
        **attributes(options),
    )
    wz = c["wz"].reshape(-1, 1, 1, 1)
    scale = c["xs"].astype(float) * c["ws"].astype(float) / c["ys"].astype(float)
    total = convolution(wide(x, c["xz"]), wide(w, wz), **options) + c["b"].reshape(-1, 1, 1)
    expected = requantise(total, np.reshape(scale, (-1, 1, 1)), c["yz"])
    np.testing.assert_array_equal(run(proto, feeds), expected)


def test_qlinear_conv_with_channels_last() -> None:
    rng = np.random.default_rng(6)
    x, w = extreme(rng, "u8", (2, 4, 5, 6)), extreme(rng, "s8", (3, 4, 3, 3))
    c = {"xs": np.float32(1), "xz": np.uint8(3), "ws": np.float32(1), "wz": np.int8(0)}
    c |= {"ys": np.float32(4000), "yz": np.uint8(90), "w": w}
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    proto = one_node(
        "QLinearConv",
        {"x": last},
        c,
        "x xs xz w ws wz ys yz",
        gives=number("u8"),
        domain=MS,
        channels_last=1,
    )
    expected = requantise(convolution(wide(x, 3), wide(w)), 1 / 4000, c["yz"])
    np.testing.assert_array_equal(run(proto, {"x": last}), expected.transpose(0, 2, 3, 1))


def test_convolutions_in_one_and_three_dimensions() -> None:
    rng = np.random.default_rng(7)
    x, w = extreme(rng, "u8", (2, 6, 9)), extreme(rng, "s8", (4, 6, 3))
    proto = one_node("ConvInteger", {"x": x}, {"w": w}, "x w", gives=INT32)
    expected = convolution(wide(x)[..., None], wide(w)[..., None])[..., 0]
    np.testing.assert_array_equal(run(proto, {"x": x}), expected)
    x, w = extreme(rng, "u8", (1, 6, 1, 9, 9)), extreme(rng, "s8", (4, 6, 1, 3, 3))
    proto = one_node("ConvInteger", {"x": x}, {"w": w}, "x w", gives=INT32)
    np.testing.assert_array_equal(
        run(proto, {"x": x})[:, :, 0], convolution(wide(x)[:, :, 0], wide(w)[:, :, 0])
    )
