"""A network of residual blocks that is small enough to calibrate in a test."""

from __future__ import annotations

import numpy as np
from check_pass import parse

from rtc.compiler.core.unit import Unit


def blocks(count: int = 2, seed: int = 0, channels: int = 16) -> Unit:
    """A stem, `count` blocks relu(conv_b(relu(conv_a(x))) + x), and a fully connected layer.

    Nodes of block n are called an, an_relu, bn, joinn, joinn_relu; tensors an, ran, bn, jn, rn.
    """
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        return (random.standard_normal(shape) * spread).astype(np.float32)

    constants = {"ws": weights(channels, 3, 3, 3), "wf": weights(10, channels)}
    lines = ["[stem] s = Conv<pads = [1,1,1,1]>(x, ws)", "[stem_relu] r0 = Relu(s)"]
    for n in range(1, count + 1):
        constants |= {f"w{side}{n}": weights(channels, channels, 3, 3) for side in "ab"}
        lines += [
            f"[a{n}] a{n} = Conv<pads = [1,1,1,1]>(r{n - 1}, wa{n})",
            f"[a{n}_relu] ra{n} = Relu(a{n})",
            f"[b{n}] b{n} = Conv<pads = [1,1,1,1]>(ra{n}, wb{n})",
            f"[join{n}] j{n} = Add(b{n}, r{n - 1})",
            f"[join{n}_relu] r{n} = Relu(j{n})",
        ]
    lines += [
        f"[mean] g = GlobalAveragePool(r{count})",
        "[flat] f = Flatten(g)",
        "[fc] y = Gemm<transB = 1>(f, wf)",
    ]
    body = "\n".join(lines)
    return parse(f"g (float[N,3,12,12] x) => (float[N,10] y) {{\n{body}\n}}", **constants)
