"""What INT8 needs of an x86 CPU: whether products are added in 16 bits, which saturate.

A graph whose weights leave room for that (`rtc.compiler.core.pairs`) runs everywhere. One that does
not computes garbage on a CPU without VNNI, so its engine is bound to CPUs that have it.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.core import pairs
from rtc.compiler.core.arrays import Array, Int64Array
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.protos import nodes
from rtc.targets.backends.integer_products import INT8, UINT8, Integers, Product, products, run

if TYPE_CHECKING:
    from onnx import ModelProto

KEY, WIDE = "integer_products", "32-bit"
"""The key and the value of `Built.binding` where an engine needs products added in 32 bits."""
_SHIFT = 128  # of int8 into uint8


@cache
def adds_in_16_bits() -> bool:
    """Whether uint8 × int8 products are added in 16 bits here: an x86 CPU without VNNI.

    By the CPU's features, and by a product that saturates if so: an emulator hands on the features
    of the machine that it runs on. True where an x86 CPU's features cannot be told.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        has_vnni = "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        has_vnni = False
    return not has_vnni or _saturates()


def _saturates() -> bool:
    """Whether ONNX Runtime's sum of two products, 2 · 255 · 127, is cut off at 32,767."""
    import onnx

    a, b = np.full((4, 8), 255, np.uint8), np.zeros((8, 4), np.int8)
    b[:2] = 127
    constants = [onnx.numpy_helper.from_array(each, name) for name, each in (("a", a), ("b", b))]
    node = onnx.helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    sums = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [4, 4])
    graph = onnx.helper.make_graph([node], "product", [], [sums], constants)
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (product,) = run(model.SerializeToString())
    return bool((product != 2 * 255 * 127).any())


def has() -> frozenset[str]:
    """What this machine has for `KEY`."""
    return frozenset() if adds_in_16_bits() else frozenset({WIDE})


def overflowing(model: ModelProto, *, unsigned: bool = True) -> tuple[str, ...]:
    """Names of the layers whose products may overflow where they are added in 16 bits.

    In doubt they may: integers that are known only when the model runs can be any.

    Args:
        model: the graph.
        unsigned: whether the runtime shifts uint8 weights into int8, as OpenVINO does. ONNX Runtime
            adds products of two uint8 numbers in 32 bits.
    """
    names = (product.name for product in products(model) if _may_overflow(product, unsigned))
    return tuple(dict.fromkeys(names))


def in_floats(model: ModelProto) -> bool:
    """Whether there are no 8-bit integers but constants: INT8 weights then multiply floats.

    A runtime may still quantise what it multiplies by them, unless it is told not to.
    """
    fed = {value.type.tensor_type.elem_type for value in model.graph.input}
    making = {"QuantizeLinear", "DynamicQuantizeLinear", "Cast", "CastLike"}
    if fed & {INT8, UINT8} or any(op_of(node) in making for node in nodes(model)):
        return False
    return not any(product.integer for product in products(model))


def saturating(optimised: ModelProto) -> tuple[str, ...]:
    """Names of the layers that ONNX Runtime computes in 16 bits, of the graph that it runs.

    Products of two int8 numbers are added in 32 bits, and what it left in float is no product of
    integers.
    """
    names = (
        product.name
        for product in products(optimised)
        if product.integer
        and product.first is not None
        and product.first.kinds != {INT8}
        and _may_overflow(product, unsigned=False)
    )
    return tuple(dict.fromkeys(names))


def _may_overflow(product: Product, unsigned: bool) -> bool:
    integers = product.second
    if integers is None or (not unsigned and integers.kinds == {UINT8}):
        return False
    if integers.stored is None:
        return product.first is not None and not _leaves_room(product.first)
    numbers = [] if integers.kinds == {UINT8} else [integers.stored]
    if unsigned and integers.centred is not None:
        if not np.array_equal(integers.centred, integers.stored) or not numbers:
            numbers.append(integers.centred)
        if UINT8 in integers.kinds:
            numbers.append(integers.stored - 128)
    return any(_largest(product, number) > pairs.LIMIT for number in numbers)


def _leaves_room(first: Integers) -> bool:
    """Whether constants, as the first operand, are small enough for any second one.

    They are multiplied as uint8, int8 having been shifted: twice 128 · -128 just fits.
    """
    if first.stored is None or first.centred is None:
        return False
    numbers = [first.stored + (0 if first.kinds == {UINT8} else _SHIFT)]
    if not np.array_equal(first.centred, first.stored):
        numbers.append(first.centred + _SHIFT)
    return all(number.max(initial=0) <= _SHIFT for number in numbers)


def _largest(product: Product, weight: Array) -> int:
    """The largest weight of a layer or sum of neighbours, or more where that is within the limit.

    Those of a vector are all neighbours.
    """
    most = 2 * int(np.abs(weight).max(initial=0))
    if most <= pairs.LIMIT or (product.second is not None and not product.second.in_order):
        return most  # whoever is whose neighbour
    op, options = (
        op_of(product.node),
        {attribute.name: attribute.i for attribute in product.node.attribute},
    )
    groups = options.get("group", 1) or 1
    if weight.ndim < 2:
        weight = weight.reshape(1, -1)
    elif op == "ConvTranspose":  # (in, out / groups, *kernel)
        weight = np.swapaxes(weight, 0, 1)
    elif "Conv" not in op and not options.get("transB", 0):
        weight = np.swapaxes(weight, -1, -2).reshape(-1, weight.shape[-2])  # each matrix's columns
    if "Conv" in op and weight.shape[1] == 1 and len(weight) == groups > 1:
        sums: tuple[Int64Array, ...] = ()  # depthwise: a kernel adds no products
    else:
        sums = pairs.partners(weight.shape[1:])
    rows = weight.reshape(len(weight), -1)
    return int(pairs.largest(rows, sums).max(initial=0))
