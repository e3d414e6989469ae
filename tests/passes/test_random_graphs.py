"""Differential tests: random graphs through each surgery pass, and through all of them."""

import numpy as np
from check_pass import check_pass, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc.passes.eliminate_dead_code import EliminateDeadCode
from rtc.passes.eliminate_identity import EliminateIdentity
from rtc.passes.fold_batchnorm import FoldBatchnorm
from rtc.passes.fold_constants import FoldConstants

PASSES = (FoldConstants(), EliminateIdentity(), FoldBatchnorm(), EliminateDeadCode())

# Each keeps the shape (N, 4, 5, 5); {s} is the tensor it reads, {o} the one it makes.
STEPS = (
    "{o} = Identity({s})",
    "{o} = Relu({s})",
    "{o} = Dropout({s})",
    "{o} = Pad({s}, none)",
    "{o}_p = Pad({s}, ring)\n {o} = MaxPool<kernel_shape = [3,3]>({o}_p)",
    "{o} = Conv<pads = [1,1,1,1]>({s}, w, b)",
    "{o}_c = Conv({s}, w_one)\n {o} = BatchNormalization({o}_c, gamma, beta, mean, var)",
    "{o} = BatchNormalization({s}, gamma, beta, mean, var)",
    "{o}_t = Transpose<perm = [0,2,3,1]>({s})\n {o} = Transpose<perm = [0,3,1,2]>({o}_t)",
    "{o}_k = Neg(k)\n {o} = Add({s}, {o}_k)",
    "{o} = Cast<to = 1>({s})",
    "{o}_dead = Neg({s})\n {o} = Add({s}, first)",
)


def weights():
    random = np.random.default_rng(11)

    def normal(*shape):
        return random.standard_normal(shape).astype(np.float32) / 3

    return {
        "w": normal(4, 4, 3, 3),
        "w_one": normal(4, 4, 1, 1),
        "b": normal(4),
        "gamma": normal(4),
        "beta": normal(4),
        "mean": normal(4),
        "var": normal(4) ** 2 + np.float32(0.5),
        "k": normal(1, 4, 1, 1),
        "none": np.zeros(8, np.int64),
        "ring": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=7), tapped=st.booleans())
def test_passes_keep_what_a_random_graph_computes(steps, tapped):
    """`tapped`: a tensor in the middle is an output of the model as well."""
    lines = ["first = Relu(x)"]
    source = "first"
    for index, step in enumerate(steps):
        lines.append(step.format(s=source, o=f"t{index}"))
        source = f"t{index}"
    lines.append(f"y = Identity({source})")
    taps = ", float[N,4,5,5] t0" if tapped else ""
    body = "\n".join(lines)
    unit = parse(f"g (float[N,4,5,5] x) => (float[N,4,5,5] y{taps}) {{\n{body}\n}}", **weights())
    for step in PASSES:
        unit = check_pass(step, unit, samples=4).unit


def test_a_deep_graph_needs_no_deep_stack():
    body = "\n".join(f"t{i + 1} = Relu(t{i})" for i in range(3000))
    unit = parse(
        f"g (float[N,2] x) => (float[N,2] y) {{ t0 = Identity(x)\n{body}\n y = Neg(t3000) }}"
    )
    assert EliminateIdentity().apply(unit, None).modified
