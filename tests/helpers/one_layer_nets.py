"""Small networks of every shape that a change may spread through, and a target for each scheme."""

from __future__ import annotations

import numpy as np
from check_pass import parse, random_samples
from nets import ONNXRUNTIME, OPENVINO, PROFILE, TENSORRT, residual

from rtc.calibration.collect import collect
from rtc.compiler.core.data import Split, Splits
from rtc.compiler.core.passes import PassContext, TargetContext
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.assign_precision import AssignPrecision

SCHEMES = {"onnxruntime": ONNXRUNTIME, "tensorrt": TENSORRT, "openvino": OPENVINO}


def branching(seed: int = 1, *, pool_last: bool = True) -> Unit:
    """A map that three branches read, joined by a Concat, and a gate that multiplies a map.

    With `pool_last`, the map is a MaxPool's: to quantise it for one branch changes it for all.
    """
    stem = (
        "[stem_relu] a = Relu(s) [pool] p = MaxPool<{}>(a)"
        if pool_last
        else "[pool] a = MaxPool<{}>(s) [stem_relu] p = Relu(a)"
    ).format("kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]")
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    return parse(
        """g (float[N,3,16,16] x) => (float[N,8] y) {
        [stem] s = Conv<pads = [1,1,1,1], strides = [2,2]>(x, w_stem, b_stem)
        STEM
        [left] l = Conv<pads = [1,1,1,1]>(p, w_left)
        [left_relu] lr = Relu(l)
        [right] r = Conv(p, w_right)
        [both] c = Concat<axis = 1>(lr, r, p)
        [squeeze] q = GlobalAveragePool(c)
        [gate] t = Conv(q, w_gate)
        [sigmoid] h = Sigmoid(t)
        [scale] m = Mul(c, h)
        [mix] n = Conv(m, w_mix)
        [flat] f = Flatten(n)
        [fc] y = Gemm(f, w_fc, b_fc)
    }""".replace("STEM", stem),
        w_stem=weights(16, 3, 3, 3),
        b_stem=weights(16),
        w_left=weights(16, 16, 3, 3),
        w_right=weights(8, 16, 1, 1),
        w_gate=weights(40, 40, 1, 1),
        w_mix=weights(24, 40, 1, 1),
        w_fc=weights(384, 8),
        b_fc=weights(8),
    )


def attention(seed: int = 2) -> Unit:
    """Attention within the four windows of an image, whose shapes are computed as it runs.

    Windows stand on the axis of the samples, and tokens are mixed with the samples on the second.
    """
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    return parse(
        """g (float[N,8,8,8] x) => (float[N,8] y)
<int64[1] zero = {0}, int64[1] one = {1}, int64[5] heads = {0, 16, 3, 2, 8},
 int64[3] ones = {1, 1, 1}, int64[1] places = {0}, int64[3] tokens = {0, 0, -1},
 float root = {0.35}> {
        [sizes] s = Shape(x)
        [batch] n = Slice(s, zero, one)
        [apart] to = Concat<axis = 0>(n, one4, one4b)
        [windows] w = Reshape(x, to)
        [moved] wm = Transpose<perm = [0,2,4,3,5,1]>(w)
        [flat] t = Reshape(wm, tokens16)
        [embed] e = MatMul(t, w_embed)
        [norm] l = LayerNormalization(e, gamma, beta)
        [qkv] h = MatMul(l, w_qkv)
        [by_head] r = Reshape(h, heads)
        [turned] p = Transpose<perm = [2,0,3,1,4]>(r)
        [split] q3, k3, v3 = Split<axis = 0>(p, ones)
        [q] q = Squeeze(q3, places)
        [k] k = Squeeze(k3, places)
        [v] v = Squeeze(v3, places)
        [kt] kt = Transpose<perm = [0,1,3,2]>(k)
        [scores] a = MatMul(q, kt)
        [scaled] b = Mul(a, root)
        [softmax] c = Softmax<axis = -1>(b)
        [values] o = MatMul(c, v)
        [back] ob = Transpose<perm = [0,2,1,3]>(o)
        [joined] oj = Reshape(ob, tokens)
        [proj] oo = MatMul(oj, w_proj)
        [residual] f = Add(e, oo)
        [first] ft = Transpose<perm = [1,0,2]>(f)
        [up] u = MatMul(ft, w_up)
        [gelu] g = Gelu(u)
        [down] d = MatMul(g, w_down)
        [sum] m = Add(ft, d)
        [pooled] mp = ReduceMean<keepdims = 0>(m, zero)
        [whole] nw = Concat<axis = 0>(n, width)
        [image] i = Reshape(mp, nw)
        [fc] y = Gemm(i, w_fc, b_fc)
    }""",
        one4=np.array([8, 2, 4], np.int64),
        one4b=np.array([2, 4], np.int64),
        tokens16=np.array([-1, 16, 8], np.int64),
        width=np.array([64], np.int64),
        w_embed=weights(8, 16),
        gamma=np.linspace(0.5, 1.5, 16).astype(np.float32),
        beta=np.linspace(-0.2, 0.2, 16).astype(np.float32),
        w_qkv=weights(16, 48),
        w_proj=weights(16, 16),
        w_up=weights(16, 32),
        w_down=weights(32, 16),
        w_fc=weights(64, 8),
        b_fc=weights(8),
    )


NETS = {"residual": residual, "branching": branching, "attention": attention}


def with_labels(split: Split, classes: int, seed: int = 0) -> Split:
    labels = np.random.default_rng(seed).integers(classes, size=len(split))
    return Split(split.name, split.raw, labels, split.preprocess)


def ranged(unit: Unit, scheme: QuantScheme, data: Splits) -> PassContext:
    """A context with the ranges of everything that a plan may quantise."""
    ranges = collect(unit.onnx.proto, AssignPrecision().needs(unit), data.calibration)
    return PassContext(data, target=TargetContext(PROFILE, "some", scheme, 8), statistics=ranges)


def sampled(unit: Unit, scheme: QuantScheme, count: int = 48) -> PassContext:
    return ranged(unit, scheme, random_samples(unit, count))
