"""A small model for each operator with a gradient, and its difference quotient."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx
import pytest
from check_pass import parse

from rtc.calibration.oracle import session
from rtc.calibration.sensitivity.alternative import FloatGraph
from rtc.calibration.sensitivity.assembly import Assembly, shared_constants
from rtc.calibration.sensitivity.gradient import Gradient
from rtc.compiler.core.operators import op_of

RANDOM = np.random.default_rng(5)


def weights(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


IMAGE = "float[N,4,9,9] x"
# ruff: noqa: E501 a model a line
MODELS = {
    "strided convolution": (IMAGE, "t = Conv<strides = [2,2], pads = [1,1,0,0]>(x, w)", {"w": weights(6, 4, 3, 3)}),
    "even kernel, stride 2": (IMAGE, "t = Conv<strides = [2,2]>(x, w)", {"w": weights(6, 4, 2, 2)}),
    "dilated": (IMAGE, "t = Conv<dilations = [2,2]>(x, w)", {"w": weights(5, 4, 3, 3)}),
    "depthwise": (IMAGE, "t = Conv<group = 4>(x, w)", {"w": weights(4, 1, 3, 3)}),
    "groups": (IMAGE, "t = Conv<group = 2, strides = [3,3]>(x, w)", {"w": weights(6, 2, 3, 3)}),
    "transposed": (IMAGE, "t = ConvTranspose<strides = [2,2], pads = [1,1,1,1], output_padding = [1,1]>(x, w)", {"w": weights(4, 3, 3, 3)}),
    "overlapping maxima": (IMAGE, "t = MaxPool<kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]>(x)", {}),
    "average pool": (IMAGE, "t = AveragePool<kernel_shape = [2,2], strides = [2,2]>(x)", {}),
    "global mean": (IMAGE, "t = GlobalAveragePool(x)", {}),
    "mean of axes": (IMAGE, "t = ReduceMean<keepdims = 0>(x, axes)", {"axes": np.array([2, -1])}),
    "relu": (IMAGE, "t = Relu(x)", {}),
    "clip": (IMAGE, "t = Clip(x, lo, hi)", {"lo": np.float32(-0.5), "hi": np.float32(0.9)}),
    "sigmoid": (IMAGE, "t = Sigmoid(x)", {}),
    "hard swish": (IMAGE, "t = HardSwish(x)", {}),
    "gelu": (IMAGE, "t = Gelu(x)", {}),
    "gate": (IMAGE, "m = GlobalAveragePool(x) s = Sigmoid(m) t = Mul(x, s)", {}),
    "difference": (IMAGE, "m = GlobalAveragePool(x) t = Sub(x, m)", {}),
    "quotient": (IMAGE, "t = Div(x, w)", {"w": 1 + np.abs(weights(1, 4, 1, 1))}),
    "concat": (IMAGE, "r = Relu(x) t = Concat<axis = 1>(r, x, r)", {}),
    "every other pixel, padded channels": (
        IMAGE,
        "s = Slice(x, starts, ends, axes, steps) t = Pad(s, pads)",
        {"starts": np.array([0, 0]), "ends": np.array([9, 9]), "axes": np.array([2, 3]),
         "steps": np.array([2, 2]), "pads": np.array([0, 2, 0, 0, 0, 1, 0, 0])},
    ),
    "transpose and reshape": (IMAGE, "p = Transpose<perm = [0,2,3,1]>(x) t = Reshape(p, shape)", {"shape": np.array([0, -1])}),
    "normalisation": (
        IMAGE,
        "t = BatchNormalization(x, s, b, m, v)",
        {"s": weights(4), "b": weights(4), "m": weights(4), "v": np.abs(weights(4)) + 1},
    ),
    "gemm": ("float[N,7] x", "t = Gemm<transB = 1>(x, w, b)", {"w": weights(5, 7), "b": weights(5)}),
    "gemm, all turned and scaled": (
        "float[N,7] x", "a = Transpose<perm = [1,0]>(x) t = Gemm<transA = 1, alpha = 0.5, beta = 2.0>(a, w, x)",
        {"w": weights(7, 7)},
    ),
    "gemm of an activation on the right": (
        "float[N,7] x", "s = Gemm<transA = 1>(x, x) e = Tanh(s) t = MatMul(x, e)", {},
    ),
    "gemm of an activation on the right, turned": (
        "float[N,7] x", "s = Gemm<transA = 1>(x, x) e = Tanh(s) t = Gemm<transB = 1, alpha = 0.5>(x, e)", {},
    ),
    "matmul of tokens": ("float[N,3,7] x", "t = MatMul(x, w)", {"w": weights(7, 5)}),
    "matmul of two activations": ("float[N,4,6] x", "s = Transpose<perm = [0,2,1]>(x) m = MatMul(x, s) t = MatMul(m, x)", {}),
    "matmul with heads of one": (
        "float[N,1,4,6] x", "r = Relu(x) e = Expand(r, wide) s = Transpose<perm = [0,1,3,2]>(x) t = MatMul(e, s)",
        {"wide": np.array([1, 3, 1, 1])},
    ),
    "attention": (
        "float[N,5,12] x",
        """r = Reshape(x, heads) p = Transpose<perm = [2,0,3,1,4]>(r) q, k, v = Split<axis = 0>(p, ones)
        qs = Squeeze(q, first) vs = Squeeze(v, first) ks = Squeeze(k, first) kt = Transpose<perm = [0,1,3,2]>(ks)
        a = MatMul(qs, kt) s = Softmax<axis = -1>(a) o = MatMul(s, vs) b = Transpose<perm = [0,2,1,3]>(o) t = Reshape(b, back)""",
        {"heads": np.array([0, 5, 3, 2, 2]), "ones": np.array([1, 1, 1]), "first": np.array([0]), "back": np.array([0, 5, 4])},
    ),
    "einsum of two activations": ("float[N,4,6] x", 't = Einsum<equation = "bik,bjk->bij">(x, x)', {}),
    "einsum with weights": ("float[N,4,6] x", 't = Einsum<equation = "bik,khd->bihd">(x, w)', {"w": weights(6, 2, 3)}),
    "einsum that adds up": ("float[N,4,6] x", 't = Einsum<equation = "bik,j->bij">(x, w)', {"w": weights(3)}),
    "same padding, above": (IMAGE, 't = Conv<strides = [2,2], auto_pad = "SAME_UPPER">(x, w)', {"w": weights(6, 4, 3, 2)}),
    "same padding, below": (IMAGE, 't = Conv<strides = [3,2], auto_pad = "SAME_LOWER">(x, w)', {"w": weights(6, 4, 4, 3)}),
    "average pool with padding": (IMAGE, "t = AveragePool<kernel_shape = [3,3], strides = [2,2], pads = [1,1,0,1]>(x)", {}),
    "average pool that counts its padding": (
        IMAGE, "t = AveragePool<kernel_shape = [3,2], strides = [2,1], pads = [1,1,1,0], count_include_pad = 1>(x)", {},
    ),
    "average pool to the end": (IMAGE, "t = AveragePool<kernel_shape = [2,2], strides = [2,2], ceil_mode = 1>(x)", {}),
    "average pool, dilated": (IMAGE, "t = AveragePool<kernel_shape = [2,2], dilations = [2,2]>(x)", {}),
    "average pool, the same size": (IMAGE, 't = AveragePool<kernel_shape = [3,3], strides = [2,2], auto_pad = "SAME_UPPER">(x)', {}),
    "nearest neighbours": (IMAGE, 't = Resize<mode = "nearest", nearest_mode = "floor">(x, , s)', {"s": np.array([1, 1, 2, 1.5], np.float32)}),
    "bilinear, to a size": (IMAGE, 't = Resize<mode = "linear">(x, , , s)', {"s": np.array([3, 4, 5, 13])}),
    "bicubic, aligned": (
        IMAGE, 't = Resize<mode = "cubic", coordinate_transformation_mode = "align_corners">(x, , s)',
        {"s": np.array([1, 1, 2, 3], np.float32)},
    ),
    "antialiased, along named axes": (
        IMAGE, 't = Resize<mode = "linear", antialias = 1, axes = [2,3]>(x, , s)', {"s": np.array([0.5, 0.4], np.float32)},
    ),
    "softmax": (IMAGE, "t = Softmax<axis = 1>(x)", {}),
    "log softmax": (IMAGE, "t = LogSoftmax(x)", {}),
    "layer normalisation": ("float[N,4,6] x", "t = LayerNormalization(x, s, b)", {"s": weights(6), "b": weights(6)}),
    "layer normalisation of two axes": ("float[N,4,6] x", "t = LayerNormalization<axis = 1>(x, s)", {"s": weights(4, 6)}),
    "instance normalisation": (IMAGE, "t = InstanceNormalization(x, s, b)", {"s": weights(4), "b": weights(4)}),
    "group normalisation": (IMAGE, "t = GroupNormalization<num_groups = 2>(x, s, b)", {"s": weights(2), "b": weights(2)}),
    "decomposed layer normalisation": (
        "float[N,4,6] x",
        """m = ReduceMean(x, last) c = Sub(x, m) q = Pow(c, two) v = ReduceMean(q, last) e = Add(v, eps)
        d = Sqrt(e) n = Div(c, d) t = Mul(n, w)""",
        {"last": np.array([-1]), "two": np.float32(2), "eps": np.float32(1e-3), "w": weights(6)},
    ),
    "euclidean length": (IMAGE, "t = LpNormalization<axis = 1, p = 2>(x)", {}),
    "l2 by parts": (
        IMAGE, "l = ReduceL2(x, axis) c = Max(l, eps) e = Expand(c, wide) t = Div(x, e)",
        {"axis": np.array([1]), "eps": np.float32(1e-6), "wide": np.array([1, 4, 1, 1])},
    ),
    "sum": (IMAGE, "t = ReduceSum<keepdims = 0>(x, axes)", {"axes": np.array([1, 3])}),
    "largest": (IMAGE, "t = ReduceMax(x, axes)", {"axes": np.array([2])}),
    "least, and absolute": (IMAGE, "a = Abs(x) t = ReduceMin<keepdims = 0>(a, axes)", {"axes": np.array([-2])}),
    "l1 and squares": (IMAGE, "a = ReduceL1(x, axes) b = ReduceSumSquare(x, axes) t = Mul(a, b)", {"axes": np.array([3])}),
    "log of a sum of exponentials": (IMAGE, "t = ReduceLogSumExp(x, axes)", {"axes": np.array([1])}),
    "global maximum": (IMAGE, "t = GlobalMaxPool(x)", {}),
    "square": (IMAGE, "t = Pow(x, two)", {"two": np.float32(2)}),
    "cube, by an integer": (IMAGE, "t = Pow(x, three)", {"three": np.int64(3)}),
    "roots and logarithms": (
        IMAGE, "e = Exp(x) s = Sqrt(e) r = Reciprocal(s) a = Add(r, e) l = Log(a) n = Neg(l) t = Mul(n, s)", {},
    ),
    "quotient of activations": (IMAGE, "e = Exp(x) o = Add(e, one) t = Div(x, o)", {"one": np.float32(1)}),
    "error function": (IMAGE, "t = Erf(x)", {}),
    "waves": (IMAGE, "s = Sin(x) c = Cos(x) t = Mul(s, c)", {}),
    "choice": (IMAGE, "c = Greater(x, zero) d = Mul(x, w) t = Where(c, x, d)", {"zero": np.float32(0), "w": weights(1, 4, 1, 1)}),
    "masked": (IMAGE, "t = Where(c, x, low)", {"c": np.tri(9) > 0, "low": np.float32(-1)}),
    "slopes of channels": (IMAGE, "t = PRelu(x, s)", {"s": weights(4, 1, 1)}),
    "larger of two": (IMAGE, "n = Neg(x) h = Mul(n, half) t = Max(x, h)", {"half": np.float32(0.5)}),
    "within bounds from one side": (IMAGE, "t = Clip(x, , hi)", {"hi": np.float32(0.2)}),
    "one of several": (IMAGE, "g = Gather<axis = 1>(x, one) t = Tanh(g)", {"one": np.int64(-2)}),
    "some, one twice": (IMAGE, "t = Gather<axis = 2>(x, places)", {"places": np.array([3, 1, 3, -1])}),
    "elements": (
        IMAGE, "t = GatherElements<axis = 3>(x, places)", {"places": np.tile(np.array([5, 5, 0]), (3, 4, 9, 1))},
    ),
    "stretch": (IMAGE, "t = Slice(x, s, e, a)", {"s": np.array([-5, 1]), "e": np.array([99, -2]), "a": np.array([3, 1])}),
    "backwards": (IMAGE, "t = Slice(x, s, e, a, p)", {"s": np.array([-1]), "e": np.array([-99]), "a": np.array([3]), "p": np.array([-2])}),
    "split in two, one forgotten": (IMAGE, "a, b, c = Split<axis = 1>(x, sizes) t = Concat<axis = 1>(c, a)", {"sizes": np.array([1, 2, 1])}),
    "tiles": (IMAGE, "t = Tile(x, often)", {"often": np.array([1, 2, 1, 3])}),
    "wider": ("float[N,1,5] x", "t = Expand(x, to)", {"to": np.array([1, 4, 5])}),
    "depth to space": (IMAGE, 't = DepthToSpace<blocksize = 2, mode = "CRD">(x)', {}),
    "space to depth": ("float[N,2,4,4] x", "t = SpaceToDepth<blocksize = 2>(x)", {}),
    "reflected": (IMAGE, 't = Pad<mode = "reflect">(x, pads)', {"pads": np.array([0, 0, 2, 1, 0, 0, 1, 3])}),
    "padded along named axes": (IMAGE, "t = Pad(x, pads, , axes)", {"pads": np.array([2, 1]), "axes": np.array([3])}),
    "put into a tensor": (
        "float[N,3,4] x",
        """t1 = Transpose<perm = [1,0,2]>(x) u = Gather<axis = 0>(t1, last) v = Tanh(u) w = Unsqueeze(v, first)
        s = ScatterND(t1, places, w) t = Transpose<perm = [1,0,2]>(s)""",
        {"last": np.int64(2), "first": np.array([0]), "places": np.array([[1]])},
    ),
    "added to some elements": (
        "float[N,5] x",
        """n = Shape<end = 1>(x) b = Concat<axis = 0>(n, two) e = Expand(places, b) v = Slice(x, from, to, axes)
        q = Mul(v, v) t = ScatterElements<axis = 1, reduction = "add">(x, e, q)""",
        {"two": np.array([2]), "places": np.array([[4, 4]]), "from": np.array([0]), "to": np.array([2]), "axes": np.array([1])},
    ),
    "running sum": (IMAGE, "t = CumSum<exclusive = 1>(x, axis)", {"axis": np.int64(3)}),
    "triangle": (IMAGE, "t = Trilu<upper = 0>(x)", {}),
    "windows of an image": (
        "float[N,4,4,3] x",
        """r = Reshape(x, apart) p = Transpose<perm = [0,1,3,2,4,5]>(r) w = Reshape(p, windows) m = MatMul(w, k)
        s = Softmax(m) b = Reshape(s, back) t = Relu(b)""",
        {"apart": np.array([0, 2, 2, 2, 2, 3]), "windows": np.array([-1, 4, 3]), "k": weights(3, 3), "back": np.array([-1, 48])},
    ),
    "samples on the second axis": (
        "float[N,4,6] x",
        "p = Transpose<perm = [1,0,2]>(x) m = MatMul(p, k) s = Add(m, e) q = Transpose<perm = [1,0,2]>(s) t = Tanh(q)",
        {"k": weights(6, 5), "e": weights(4, 1, 5)},
    ),
    "by its own size": (
        IMAGE,
        """s = Shape(x) n = Gather(s, two) h = Cast<to = 1>(n) r = Sqrt(h) d = Div(x, r) b = Greater(x, high)
        j = Cast<to = 1>(b) t = Add(d, j)""",
        {"two": np.int64(2), "high": np.float32(9)},
    ),
    **{
        f"{op} alone": (IMAGE, f"t = {op}{options}(x)", {})
        for op, options in {
            "Atan": "", "Celu": "<alpha = 0.7>", "Elu": "", "HardSigmoid": "", "LeakyRelu": "<alpha = 0.3>",
            "Mish": "", "Softplus": "", "Softsign": "",
            "Identity": "", "Dropout": "",
        }.items()
    },
    "sum of three": (IMAGE, "r = Relu(x) t = Sum(x, r, x)", {}),
    "mean of three": (IMAGE, "r = Relu(x) t = Mean(x, r, w)", {"w": weights(1, 4, 1, 1)}),
    "the least of two": (IMAGE, "r = Tanh(x) t = Min(r, w)", {"w": weights(1, 4, 1, 1) / 4}),
    "cast like another": (IMAGE, "t = CastLike(x, w)", {"w": weights(1)}),
    "gathered places": (
        IMAGE, "t = GatherND<batch_dims = 0>(x, places)", {"places": np.array([[[0, 3], [2, 1]], [[1, 0], [2, 2]], [[0, 0], [1, 3]]])},
    ),
    "reversed along time": (
        "float[N,4,6] x", "t = ReverseSequence<batch_axis = 0, time_axis = 1>(x, ends)", {"ends": np.array([4, 2, 3])},
    ),
}  # fmt: skip


def model(text, source, constants):
    """The operators, and a fully connected layer to three logits behind them."""
    body = parse(f"g ({source}) => (float[N] t) {{ {text} }}", **constants)
    inferred = onnx.load_model_from_string(body.onnx.proto)
    del inferred.graph.output[:]
    inferred.graph.output.append(onnx.ValueInfoProto(name="t"))
    features = int(np.prod(FloatGraph(inferred.SerializeToString()).shapes["t"][1:]))
    constants = {**constants, "head": weights(features, 3)}
    return parse(
        f"g ({source}) => (float[N,3] y) {{ {text} f = Flatten(t) y = MatMul(f, head) }}",
        **constants,
    )


def gradient(proto, inputs, seed, of="x"):
    base = FloatGraph(proto)
    part = Assembly(base.model.opset_import)
    part.take_float(base)
    found = Gradient(base, part).back("seed", [of])[of]
    runner = session(part.model(base, [found], {"seed": ("batch", 3)}))
    return runner.run(None, {**shared_constants(base, [part]), "x": inputs, "seed": seed})[0]


def operators_of(name):
    """The operators of a model."""
    source, text, constants = MODELS[name]
    proto = model(text, source, constants).onnx.proto
    return {op_of(node) for node in onnx.load_model_from_string(proto).graph.node}


def models_with(rules: ModuleType) -> list[str]:
    """The models that have an operator of these rules, beside what ends every one of them."""
    return [
        name for name in MODELS if (operators_of(name) - {"Flatten", "MatMul"}) & set(rules.RULES)
    ]


def check_gradient(name):
    """Hold the gradient of a model by its input to the difference quotient."""
    source, text, constants = MODELS[name]
    proto = model(text, source, constants).onnx.proto
    shape = [3, *FloatGraph(proto).shapes["x"][1:]]
    draw = np.random.default_rng(len(name)).standard_normal
    x, direction, seed = (draw(s).astype(np.float32) for s in (shape, shape, (3, 3)))
    runner, step = session(proto), 1e-3
    ahead, behind = (runner.run(None, {"x": x + sign * step * direction})[0] for sign in (1, -1))
    expected = ((ahead - behind).astype(np.float64) / (2 * step) * seed).sum()
    found = (gradient(proto, x, seed).astype(np.float64) * direction).sum()
    size = float(np.abs(ahead - behind).max()) / (2 * step)
    assert found == pytest.approx(expected, rel=0.02, abs=0.03 * size)
