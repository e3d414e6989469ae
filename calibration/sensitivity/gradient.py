"""Gradients of a model's output, as ONNX operators beside the model: no autograd library is needed.

Reverse mode (Griewank & Walther, Evaluating Derivatives, 2008, chapter 3): from a row vector v at
the output, the vector-Jacobian product vᵀ · ∂output/∂t for every tensor t asked for, in one walk
back over the graph. Matrix products cost what they cost forward, and weights get no gradient.

    y = Conv(x, w)       →  ∂x = ConvTranspose(∂y, w)
    y = Gemm(x, w)       →  ∂x = ∂y · wᵀ
    y = Relu | Clip(x)   →  ∂x = ∂y where y = x, else 0
    y = f(x), smooth     →  ∂x = ∂y · (f(x + h) - f(x - h)) / 2h
    y = a + b            →  ∂a = ∂b = ∂y, summed over what was broadcast
    y = MaxPool(x)       →  ∂y scattered to where the maxima came from
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.calibration.sensitivity.alternative import FloatGraph
from rtc.calibration.sensitivity.assembly import Assembly
from rtc.calibration.sensitivity.shapes import Shape, shapes
from rtc.compiler.core.errors import ModelError

if TYPE_CHECKING:
    import onnx

_SCATTERS = 16  # the first opset whose ScatterElements adds up
_STEP = 1e-2  # of the central difference: its error falls with h², float32's grows with 1/h

Found = Iterable[tuple[str, str]]
"""(input of a node, gradient that reaches it through that node), by tensor name."""


class Gradient:
    """Writes gradients into an assembly that is fed the float model's tensors, or computes them."""

    def __init__(self, base: FloatGraph, assembly: Assembly) -> None:
        self.base, self.to = base, assembly
        self.shapes = shapes(base.graph)

    def back(self, seed: str, wanted: Iterable[str]) -> dict[str, str]:
        """Gradients by tensor, from `seed` (n, classes) at the model's first output.

        Raises:
            ModelError: an operator on the way that has no gradient here.
        """
        nodes = self._between(set(wanted))
        parts: defaultdict[str, list[str]] = defaultdict(list, {self.base.logits: [seed]})
        done: dict[str, str] = {}
        for node, moving in reversed(nodes):
            result = node.output[0]
            if not parts[result]:
                continue
            done[result] = self._sum(parts[result])
            for name, part in _rule(node)(self, node, done[result]):
                if name in moving:
                    parts[name].append(part)
        return done | {name: self._sum(parts[name]) for name in wanted if name not in done}

    def _between(self, wanted: set[str]) -> list[tuple[onnx.NodeProto, set[str]]]:
        """Nodes from the wanted tensors to the output, and which inputs of theirs depend on one."""
        moving, found = set(wanted), []
        for node in self.base.graph.node:
            inputs = moving & set(node.input)
            if inputs:
                moving |= set(node.output)
                found.append((node, inputs))
        return found

    def _sum(self, parts: list[str]) -> str:
        return parts[0] if len(parts) == 1 else self.to.node("Sum", parts)

    # ---- rules ----

    def convolution(self, node: onnx.NodeProto, g: str) -> Found:
        x, w = node.input[:2]
        options = _attributes(node)
        if options.pop("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise _no_gradient(node, "with automatic padding")
        options["output_padding"] = self._output_padding(node, options)
        yield x, self._product(node, "ConvTranspose", [g, w], **options)

    def _output_padding(self, node: onnx.NodeProto, options: dict[str, Any]) -> list[int]:
        """Rows and columns of x that the strides skipped at its end."""
        source, weight = self.shapes[node.input[0]][2:], self.shapes[node.input[1]][2:]
        rank = len(source)
        pads = options.get("pads", [0] * 2 * rank)
        strides, dilations = (options.get(k, [1] * rank) for k in ("strides", "dilations"))
        reach = (
            source[i] + pads[i] + pads[i + rank] - (weight[i] - 1) * dilations[i] - 1
            for i in range(rank)
        )
        return [left % stride for left, stride in zip(reach, strides, strict=True)]

    def transposed_convolution(self, node: onnx.NodeProto, g: str) -> Found:
        options = _attributes(node)
        if {"auto_pad", "output_shape"} & options.keys():
            raise _no_gradient(node, "with automatic padding")
        options.pop("output_padding", None)
        yield node.input[0], self._product(node, "Conv", [g, node.input[1]], **options)

    def gemm(self, node: onnx.NodeProto, g: str) -> Found:
        options = _attributes(node)
        if options.get("transA") or options.get("alpha", 1.0) != 1.0:
            raise _no_gradient(node, "with transA or alpha")
        back = {"transB": 1 - options.get("transB", 0)}
        yield node.input[0], self._product(node, "Gemm", [g, node.input[1]], **back)
        if len(node.input) > 2:
            yield from self._unbroadcast(node, node.input[2], g)

    def matmul(self, node: onnx.NodeProto, g: str) -> Found:
        x, w = node.input
        if w not in self.base.constants or len(self.shapes[w]) != 2:
            raise _no_gradient(node, "of two activations")
        transposed = self.to.node("Transpose", [w], perm=[1, 0])
        yield x, self._product(node, "MatMul", [g, transposed])

    def _product(self, node: onnx.NodeProto, op: str, inputs: list[str], **options: Any) -> str:
        self.to.ran.append(node.name)
        self.to.feeds |= {name for name in inputs if name in self.base.constants}
        return self.to.node(op, inputs, **options)

    def kink(self, node: onnx.NodeProto, g: str) -> Found:
        x, y = node.input[0], node.output[0]
        passes = self.to.node("Equal", [x, y])
        zero = self.to.constant(np.zeros((), np.float32))
        yield x, self.to.node("Where", [passes, g, zero])

    def smooth(self, node: onnx.NodeProto, g: str) -> Found:
        x, options = node.input[0], _attributes(node)
        step = self.to.constant(np.array(_STEP, np.float32))
        ahead, behind = (
            self.to.node(node.op_type, [self.to.node(op, [x, step]), *node.input[1:]], **options)
            for op in ("Add", "Sub")
        )
        width = self.to.constant(np.array(2 * _STEP, np.float32))
        slope = self.to.node("Div", [self.to.node("Sub", [ahead, behind]), width])
        yield x, self.to.node("Mul", [g, slope])

    def sum(self, node: onnx.NodeProto, g: str) -> Found:
        for name in node.input:
            yield from self._unbroadcast(node, name, g)

    def difference(self, node: onnx.NodeProto, g: str) -> Found:
        yield from self._unbroadcast(node, node.input[0], g)
        yield from self._unbroadcast(node, node.input[1], self.to.node("Neg", [g]))

    def product(self, node: onnx.NodeProto, g: str) -> Found:
        a, b = node.input
        for name, other in ((a, b), (b, a)):
            yield from self._unbroadcast(node, name, self.to.node("Mul", [g, self._given(other)]))

    def quotient(self, node: onnx.NodeProto, g: str) -> Found:
        a, b = node.input
        if b not in self.base.constants:
            raise _no_gradient(node, "by an activation")
        yield from self._unbroadcast(node, a, self.to.node("Div", [g, self._given(b)]))

    def _given(self, name: str) -> str:
        """A tensor's name, and the assembly is fed it where it is a constant."""
        if name in self.base.constants:
            self.to.feeds.add(name)
        return name

    def _unbroadcast(self, node: onnx.NodeProto, name: str, g: str) -> Found:
        if name in self.base.constants:
            return
        own, full = self.shapes[name], self.shapes[node.output[0]]
        if len(own) != len(full):
            raise _no_gradient(node, f"of shapes {own} and {full}")
        axes = [i for i in range(1, len(own)) if own[i] != full[i]]
        if axes:
            g = self.to.node("ReduceSum", [g, self.to.constant(np.array(axes))], keepdims=1)
        yield name, g

    def global_mean(self, node: onnx.NodeProto, g: str) -> Found:
        yield node.input[0], self._spread(node, g)

    def mean(self, node: onnx.NodeProto, g: str) -> Found:
        options = _attributes(node)
        if not options.get("keepdims", 1):
            kept = [0, *(1 if i in self._axes(node) else 0 for i in range(1, self._rank(node)))]
            shape = [1 if kept[i] else d for i, d in enumerate(self.shapes[node.input[0]])]
            g = self.to.node("Reshape", [g, self.to.constant(np.array([-1, *shape[1:]]))])
        yield node.input[0], self._spread(node, g)

    def _axes(self, node: onnx.NodeProto) -> set[int]:
        import onnx

        axes = _attributes(node).get("axes")
        if axes is None and len(node.input) > 1 and node.input[1] in self.base.constants:
            axes = onnx.numpy_helper.to_array(self.base.constants[node.input[1]]).tolist()
        if axes is None or 0 in axes:
            raise _no_gradient(node, "over the batch, or axes that are computed")
        return {int(axis) % self._rank(node) for axis in axes}

    def _rank(self, node: onnx.NodeProto) -> int:
        return len(self.shapes[node.input[0]])

    def _spread(self, node: onnx.NodeProto, g: str) -> str:
        """The gradient of a mean: an equal share for each element."""
        x = node.input[0]
        share = math.prod(self.shapes[x][1:]) / math.prod(self.shapes[node.output[0]][1:])
        g = self.to.node("Div", [g, self.to.constant(np.array(share, np.float32))])
        return self.to.node("Expand", [g, self.to.node("Shape", [x])])

    def average_pool(self, node: onnx.NodeProto, g: str) -> Found:
        options = _attributes(node)
        padded = options.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        if padded or any(options.get("pads", [])) or options.get("ceil_mode"):
            raise _no_gradient(node, "with padding")
        if any(step != 1 for step in options.get("dilations", [])):
            raise _no_gradient(node, "with dilations")
        kernel, channels = options["kernel_shape"], self.shapes[node.input[0]][1]
        weight = np.full((channels, 1, *kernel), 1 / math.prod(kernel), np.float32)
        strides = options.get("strides", [1] * len(kernel))
        source = self.shapes[node.input[0]][2:]
        beyond = [(d - k) % s for d, k, s in zip(source, kernel, strides, strict=True)]
        yield (
            node.input[0],
            self.to.node(
                "ConvTranspose",
                [g, self.to.constant(weight)],
                group=channels,
                strides=strides,
                output_padding=beyond,
            ),
        )

    def max_pool(self, node: onnx.NodeProto, g: str) -> Found:
        self._refuse_before(node, _SCATTERS)
        x = node.input[0]
        options = {**_attributes(node), "storage_order": 0}
        _, places = self.to.nodes_of("MaxPool", [x], 2, **options)
        flat = self.to.constant(np.array([-1], np.int64))
        shape = self.to.node("Shape", [x])
        nothing = self.to.node("Reshape", [self.to.node("ConstantOfShape", [shape]), flat])
        where, what = (self.to.node("Reshape", [each, flat]) for each in (places, g))
        spread = self.to.node("ScatterElements", [nothing, where, what], axis=0, reduction="add")
        yield x, self.to.node("Reshape", [spread, shape])

    def slice(self, node: onnx.NodeProto, g: str) -> Found:
        """Scattered to where the node takes a numbering of one sample's elements from."""
        self._refuse_before(node, _SCATTERS)
        x, shape = node.input[0], self.shapes[node.input[0]]
        numbers = np.arange(math.prod(shape[1:]), dtype=np.int64).reshape(1, *shape[1:])
        where = self.to.nodes_of(
            node.op_type, [self.to.constant(numbers), *node.input[1:]], 1, **_attributes(node)
        )[0]
        flat = self.to.node("Flatten", [g])
        where = self.to.node(
            "Expand", [self.to.node("Flatten", [where]), self.to.node("Shape", [flat])]
        )
        full = self.to.node("Shape", [x])
        nothing = self.to.node("Flatten", [self.to.node("ConstantOfShape", [full])])
        spread = self.to.node("ScatterElements", [nothing, where, flat], axis=1, reduction="add")
        yield x, self.to.node("Reshape", [spread, full])

    def _refuse_before(self, node: onnx.NodeProto, opset: int) -> None:
        own = next(each.version for each in self.base.model.opset_import if not each.domain)
        if own < opset:
            raise _no_gradient(node, f"before opset {opset}")

    def pad(self, node: onnx.NodeProto, g: str) -> Found:
        import onnx

        if _attributes(node).get("mode", b"constant") != b"constant":
            raise _no_gradient(node, "with reflection")
        if len(node.input) < 2 or node.input[1] not in self.base.constants:
            raise _no_gradient(node, "by widths that are no constants")
        pads = onnx.numpy_helper.to_array(self.base.constants[node.input[1]])
        inputs = [g, self.to.constant(-pads), "", *node.input[3:]]
        yield node.input[0], self.to.node("Pad", inputs)

    def reshape(self, node: onnx.NodeProto, g: str) -> Found:
        x = node.input[0]
        yield x, self.to.node("Reshape", [g, self.to.node("Shape", [x])])

    def transpose(self, node: onnx.NodeProto, g: str) -> Found:
        default = list(range(self._rank(node)))[::-1]
        perm = _attributes(node).get("perm", default)
        yield node.input[0], self.to.node("Transpose", [g], perm=[int(i) for i in np.argsort(perm)])

    def identity(self, node: onnx.NodeProto, g: str) -> Found:
        yield node.input[0], g

    def concat(self, node: onnx.NodeProto, g: str) -> Found:
        axis = _attributes(node)["axis"]
        sizes = np.array([self.shapes[name][axis] for name in node.input], np.int64)
        parts = self.to.nodes_of("Split", [g, self.to.constant(sizes)], len(sizes), axis=axis)
        return zip(node.input, parts, strict=True)

    def batch_normalization(self, node: onnx.NodeProto, g: str) -> Found:
        import onnx

        scale, variance = (
            onnx.numpy_helper.to_array(self.base.constants[node.input[i]]) for i in (1, 4)
        )
        factor = scale / np.sqrt(variance + _attributes(node).get("epsilon", 1e-5))
        shape: Shape = (1, -1, *(1 for _ in range(self._rank(node) - 2)))
        along = self.to.constant(factor.reshape(shape).astype(np.float32))
        yield node.input[0], self.to.node("Mul", [g, along])


Rule = Callable[[Gradient, "onnx.NodeProto", str], Found]

_RULES: dict[str, Rule] = {
    "Conv": Gradient.convolution,
    "ConvTranspose": Gradient.transposed_convolution,
    "Gemm": Gradient.gemm,
    "MatMul": Gradient.matmul,
    "Add": Gradient.sum,
    "Sum": Gradient.sum,
    "Sub": Gradient.difference,
    "Mul": Gradient.product,
    "Div": Gradient.quotient,
    "MaxPool": Gradient.max_pool,
    "AveragePool": Gradient.average_pool,
    "GlobalAveragePool": Gradient.global_mean,
    "ReduceMean": Gradient.mean,
    "Transpose": Gradient.transpose,
    "Slice": Gradient.slice,
    "Pad": Gradient.pad,
    "Concat": Gradient.concat,
    "BatchNormalization": Gradient.batch_normalization,
    **dict.fromkeys(("Relu", "Clip"), Gradient.kink),
    **dict.fromkeys(
        (
            "Elu",
            "Erf",
            "Gelu",
            "HardSigmoid",
            "HardSwish",
            "LeakyRelu",
            "Mish",
            "Sigmoid",
            "Softplus",
            "Tanh",
        ),
        Gradient.smooth,
    ),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), Gradient.reshape),
    **dict.fromkeys(("Dropout", "Identity"), Gradient.identity),
}


def _rule(node: onnx.NodeProto) -> Rule:
    if node.op_type not in _RULES:
        raise _no_gradient(node, "")
    return _RULES[node.op_type]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    import onnx

    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def _no_gradient(node: onnx.NodeProto, how: str) -> ModelError:
    return ModelError(
        f"the fast sensitivity analysis knows no gradient of {node.op_type} {how}".rstrip(),
        where=f"layer {node.name}",
        fix="use the exact one",
        id="no-gradient",
    )
