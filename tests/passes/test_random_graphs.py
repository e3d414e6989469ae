"""Differential tests: random graphs through each pass, and through all of them.

The first draws sequences of steps by hypothesis, which shrinks what fails; the others take whole
networks of `random_graphs` and hold them in float64 against what came in.
"""

from dataclasses import replace

import numpy as np
import pytest
from check_pass import check_pass, context_for, parse
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import ONNXRUNTIME, TENSORRT, planned
from random_graphs import in_double, random_graph, random_model

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.precision import Variant
from rtc.compiler.frontend.axes import settled
from rtc.passes.graph.branches import without_decided_branches
from rtc.passes.graph.eliminate_dead_code import EliminateDeadCode
from rtc.passes.graph.eliminate_identity import EliminateIdentity
from rtc.passes.graph.fold_batchnorm import FoldBatchnorm
from rtc.passes.graph.fold_constants import FoldConstants
from rtc.passes.quantise.cast_precision import CastPrecision
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.passes.repair.equalize import Equalize
from rtc.passes.support.onnx_graph import named

PASSES = (FoldConstants(), EliminateIdentity(), FoldBatchnorm(), EliminateDeadCode(), Equalize())

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


QUICK = 40  # networks that every run of the tests looks at
ROUNDED = 1e-5  # weights are stored in float32
BATCHES = (1, 2, 5)


def keeps_what_is_computed(seed):
    """Each pass, and all of them one after the other; every batch has an answer of its own."""
    model = random_model(seed)
    ctx = context_for(model, 8)
    inputs = np.split(ctx.data.test.inputs(), np.cumsum(BATCHES)[:-1])

    def differs(wanted, unit):
        found = in_double(unit, *inputs)
        assert [each.shape for each in found] == [each.shape for each in wanted]
        pairs = zip(found, wanted, strict=True)
        return max(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30) for a, b in pairs)

    wanted = in_double(model, *inputs)
    chain = unit = without_decided_branches(named(model))
    assert differs(wanted, unit) < ROUNDED, "branches"
    for step in PASSES:
        alone = step.apply(unit, ctx).unit
        chain = step.apply(chain, ctx).unit
        assert differs(wanted, alone) < ROUNDED, step.name
        assert differs(wanted, chain) < ROUNDED, f"{step.name} after the others"
    smooth = Equalize(relu6="replace", max_disagreement=1.0).apply(unit, ctx)
    wanted = in_double(smooth.stated.unit if smooth.stated else unit, *inputs)
    assert differs(wanted, smooth.unit) < ROUNDED, "with ReLU6 replaced"


@pytest.mark.parametrize("seed", range(QUICK))
def test_a_random_network_computes_the_same_after_each_pass_and_all_of_them(seed):
    keeps_what_is_computed(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 1100, 100))
def test_a_thousand_random_networks_compute_the_same(start):
    for seed in range(start, start + 100):
        keeps_what_is_computed(seed)


@pytest.mark.parametrize("seed", range(12))
def test_settling_a_random_model_keeps_what_it_computes(seed):
    """All that is done with a model from outside: branches inlined, a newer opset, its axes."""
    model = random_model(seed)
    samples = context_for(model, 16).data.test.inputs()
    found = settled(named(model), samples, 4)
    assert found.notes == ()
    with Oracle(model.onnx.proto) as before, Oracle(found.unit.onnx.proto) as after:
        wanted, answer = (next(iter(each.run(samples).values())) for each in (before, after))
    np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("seed", range(12))
def test_every_pass_keeps_its_contract_on_a_random_network(seed):
    unit = random_graph(seed)
    for step in PASSES:
        unit = check_pass(step, unit, samples=4).unit


QUANTISABLE = range(13, 21)  # opsets; what is older is lifted before
SCHEMES = {
    "onnxruntime": replace(ONNXRUNTIME, bias="int32"),
    "onnxruntime, one scale": replace(ONNXRUNTIME, per_channel=False),
    "by sign": replace(ONNXRUNTIME, activation="by-sign"),
    "tensorrt": TENSORRT,
    "tensorrt, one scale": replace(TENSORRT, per_channel=False),
}


def changed_by(step, unit, ctx):
    """How far the output moves, as a share of its norm; all of it is there, and finite."""
    inputs = ctx.data.test.inputs()
    with Oracle(unit.onnx.proto) as before, Oracle(step.apply(unit, ctx).unit.onnx.proto) as after:
        wanted, found = before.run(inputs)["y"], after.run(inputs)["y"]
    assert found.shape == wanted.shape
    assert np.isfinite(found).all()
    return np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-30)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_quantising_random_networks_is_noise_and_no_other_function(scheme):
    """Of weights two decades apart: INT8 is coarse there, a wrong axis is another function."""
    units = [random_graph(seed, opsets=QUANTISABLE) for seed in range(12)]
    moved = [changed_by(InsertQdq(), u, planned(u, scheme, Variant.INT8)) for u in units]
    assert max(moved) < 0.5
    assert np.median(moved) < 0.05


@pytest.mark.parametrize("seed", range(12))
def test_a_random_network_in_half_is_the_same_but_for_rounding(seed):
    unit = random_graph(seed, opsets=QUANTISABLE)
    ctx = planned(unit, TENSORRT, Variant.HALF)
    assert changed_by(CastPrecision(), unit, ctx) < 0.01


def test_a_deep_graph_needs_no_deep_stack():
    body = "\n".join(f"t{i + 1} = Relu(t{i})" for i in range(3000))
    unit = parse(
        f"g (float[N,2] x) => (float[N,2] y) {{ t0 = Identity(x)\n{body}\n y = Neg(t3000) }}"
    )
    assert EliminateIdentity().apply(unit, None).modified
