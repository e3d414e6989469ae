"""Evidence on models that give probabilities: that of the logits behind them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from check_pass import parse, random_samples, unit_of
from nets import OPENVINO, residual
from one_layer_nets import ranged, with_labels

from rtc.calibration.effect import output_snr_db
from rtc.calibration.sensitivity import Sensitivity, exact, fast
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.one_layer import alternatives


def ending_in(unit: Unit, *ops: str) -> Unit:
    """A net whose output goes through more operators."""
    model = onnx.load_model_from_string(unit.onnx.proto)
    model.graph.node[-1].output[0] = "z"
    for name, op in zip(("z", *ops), ops, strict=False):
        model.graph.node.append(onnx.helper.make_node(op, [name], [op], op))
    model.graph.node[-1].output[0] = "y"
    return unit_of(model.SerializeToString())


def complementary(end: str = "Sigmoid(z)", by: float = 1.0) -> Unit:
    """Two classes by two sigmoids of ±z: a distribution without a Softmax, and one of ±z/2."""
    random = np.random.default_rng(0)
    wide, last = (
        (random.standard_normal(shape) * 2 / np.sqrt(shape[0])).astype(np.float32)
        for shape in ((16, 32), (32, 1))
    )
    return parse(
        f"""g (float[N,16] x) => (float[N,2] y) {{
        [first] h = MatMul(x, wide)
        [relu] r = Relu(h)
        [last] z = MatMul(r, both)
        [end] y = {end}
    }}""",
        wide=wide,
        both=np.concatenate([last, -last], axis=1) * np.float32(by),
    )


def evidence(unit: Unit, engine=exact) -> Sensitivity:
    ctx = ranged(unit, OPENVINO, random_samples(unit, 64))
    return engine(*alternatives(unit, ctx), with_labels(ctx.calibration(), 2))


@pytest.fixture(scope="module")
def of_logits() -> Sensitivity:
    return evidence(residual())


@pytest.mark.parametrize("ops", [["Softmax"], ["Softmax", "Identity"], ["LogSoftmax"]])
def test_a_softmax_at_the_end_changes_no_divergence(of_logits, ops) -> None:
    found = evidence(ending_in(residual(), *ops))
    for row, wanted in zip(found.rows, of_logits.rows, strict=True):
        assert row.kl.value == pytest.approx(wanted.kl.value, rel=0.02)
        assert (row.agreement, row.top1_drop) == (wanted.agreement, wanted.top1_drop)
        # That of log-probabilities; of probabilities it is tens of decibels from the logits'.
        assert row.output_snr_db.value == pytest.approx(wanted.output_snr_db.value, abs=6)


def test_the_fast_engine_takes_gradients_at_the_logits_too() -> None:
    logits = evidence(complementary("Identity(z)", by=0.5))
    true, found = (evidence(complementary(), engine) for engine in (exact, fast))
    for row, same, wanted in zip(found.rows, true.rows, logits.rows, strict=True):
        assert row.output_snr_db.value == pytest.approx(same.output_snr_db.value, abs=2)
        assert row.kl.value == pytest.approx(wanted.kl.value, rel=0.5)
        assert row.agreement.value == pytest.approx(wanted.agreement.value, abs=0.05)


def test_what_a_change_does_to_the_output_is_told_in_logits() -> None:
    def scaled(op: str, by: float) -> bytes:
        unit = parse(
            f"""g (float[N,4] x) => (float[N,4] y) {{
            [fc] z = MatMul(x, w)
            [softmax] y = {op}(z)
        }}""",
            w=np.eye(4, dtype=np.float32) * np.float32(by),
        )
        return unit.onnx.proto

    split = random_samples(parse(PLAIN), 64).test
    p, log_p = (
        output_snr_db(scaled(op, 2.0), scaled(op, 2.02), split) for op in ("Softmax", "LogSoftmax")
    )
    assert p == pytest.approx(log_p, abs=0.01)


PLAIN = "g (float[N,4] x) => (float[N,4] y) { y = Identity(x) }"
