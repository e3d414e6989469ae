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
from rtc.passes.assign_precision import AssignPrecision

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


NETS = {"residual": residual, "branching": branching}


def with_labels(split: Split, classes: int, seed: int = 0) -> Split:
    labels = np.random.default_rng(seed).integers(classes, size=len(split))
    return Split(split.name, split.raw, labels, split.preprocess)


def ranged(unit: Unit, scheme: QuantScheme, data: Splits) -> PassContext:
    """A context with the ranges of everything that a plan may quantise."""
    ranges = collect(unit.onnx.proto, AssignPrecision().needs(unit), data.calibration)
    return PassContext(data, target=TargetContext(PROFILE, "some", scheme, 8), statistics=ranges)


def sampled(unit: Unit, scheme: QuantScheme, count: int = 48) -> PassContext:
    return ranged(unit, scheme, random_samples(unit, count))
