"""How far an engine may be from its graph, and which form of a batch is taken."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import pytest
import small_models

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import BuilderError, ModelError
from rtc.compiler.core.operators import HALF_KEY
from rtc.compiler.core.target import DeviceProfile, Runner
from rtc.compiler.core.unit import Signature, TensorSpec
from rtc.compiler.measure import fidelity
from rtc.compiler.measure.worker import ReferenceRunner
from rtc.targets import loader

CPU = loader.profile("cpu")
DATA = small_models.samples(20)
FLOAT = small_models.linear().onnx.proto
ROUNDED = """
<ir_version: 10, opset_import: ["" : 20]>
linear (float[batch, 6] input) => (float[batch, 4] logits)
<float[6, 4] w = {WEIGHTS}, float s = {0.02}, int8 z = {0}> {
    q = QuantizeLinear (input, s, z)
    d = DequantizeLinear (q, s, z)
    logits = MatMul (d, w)
}
"""


def rounded() -> bytes:
    import onnx

    values = ", ".join(f"{value:.9g}" for value in small_models.WEIGHTS.ravel())
    text = ROUNDED.replace("WEIGHTS", values)
    return bytes(onnx.parser.parse_model(text).SerializeToString())


class Off(ReferenceRunner):
    """The float model with an error of so many decibels below it in each form; NaN by None."""

    def __init__(self, forms: Mapping[str, float | None], only: int = 0) -> None:
        super().__init__(small_models.linear())
        self.off, self.only, self.taken = forms, only, dict[int, str]()

    def forms(self, batch: int) -> tuple[str, ...]:
        return tuple(self.off)

    def take(self, batch: int, form: str) -> None:
        self.taken[batch] = form

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs = super().run(feeds)
        count = len(outputs["logits"])
        decibels = self.off[self.taken[count]]
        if self.only not in (0, count):
            return outputs
        factor = np.nan if decibels is None else 1 + 10 ** (-decibels / 20)
        return {"logits": (outputs["logits"] * factor).astype(np.float32)}


def held(runner: Runner, batch: int = 4, profile: DeviceProfile = CPU) -> fidelity.Deviation:
    return fidelity.settle(runner, fidelity.probe(FLOAT, FLOAT, DATA, profile), batch)


@pytest.mark.parametrize(("decibels", "right"), [(100, True), (63, True), (55, False), (30, False)])
def test_a_float_engine_is_right_to_60_db(decibels: float, right: bool) -> None:
    if right:
        assert held(Off({"": decibels})).decibels == pytest.approx(decibels, abs=3)
        return
    with pytest.raises(BuilderError) as caught:
        held(Off({"": decibels}))
    assert caught.value.id == "engine-differs"
    assert (caught.value.where, caught.value.seen.count("dB")) == ("batch 4", 1)
    outputs = held_outputs()["logits"]
    spread = np.square(outputs - outputs.mean(axis=0)).sum() / np.square(outputs).sum()
    assert caught.value.expected.startswith(f"at least {60 - 10 * np.log10(spread):.1f} dB")


def test_a_float_engine_of_a_gpu_may_round_its_products() -> None:
    gpu = DeviceProfile("gpu", "nobody", "gpu", ())
    assert held(Off({"": 55}), profile=gpu).share < 1
    with pytest.raises(BuilderError):
        held(Off({"": 15}), profile=gpu)


def test_where_the_graph_rounds_the_engine_may_be_off_by_as_much_as_that_and_no_more() -> None:
    known = fidelity.probe(rounded(), FLOAT, DATA, CPU)
    own = fidelity.settle(Off({"": 200}), known, 4).decibels  # the float model, from the graph
    assert 30 < own < 60
    near = fidelity.Probe(known.inputs, held_outputs(), known.allowed)
    assert fidelity.settle(Off({"": own + 1}), near, 4).share < 1
    with pytest.raises(BuilderError):
        fidelity.settle(Off({"": min(own, 30) - 7}), near, 4)


def held_outputs() -> dict[str, Array]:
    return dict(fidelity.probe(FLOAT, FLOAT, DATA, CPU).outputs)


def test_an_engine_that_is_wrong_at_one_batch_is_wrong_there_alone() -> None:
    runner = Off({"": 5.0}, only=8)
    for batch in (1, 4, 16):
        assert held(runner, batch).share < 1e-3
    with pytest.raises(BuilderError, match=r"batch 8.*dB"):
        held(runner, 8)


def test_one_sample_of_a_batch_that_is_wrong_is_seen() -> None:
    class Last(ReferenceRunner):
        def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
            outputs = super().run(feeds)["logits"].copy()
            outputs[-1] *= 1.01 if len(outputs) == 64 else 1
            return {"logits": outputs}

    assert held(Last(small_models.linear()), 4).share < 1e-3
    with pytest.raises(BuilderError):
        held(Last(small_models.linear()), 64)


def test_the_first_form_that_is_right_is_taken() -> None:
    runner = Off({"fast": 10.0, "slow": 120.0, "never asked": None})
    assert held(runner).form == "slow"
    assert runner.taken == {4: "slow"}


def test_a_form_that_is_just_right_is_not_taken_before_one_that_is_plainly_right() -> None:
    assert held(Off({"fast": 62.0, "slow": 120.0})).form == "slow"
    assert held(Off({"fast": 62.0, "slow": 63.0})).form == "fast"


def test_where_no_form_is_right_each_is_told() -> None:
    with pytest.raises(BuilderError) as caught:
        held(Off({"fast": 10.0, "slow": 20.0, "odd": None}))
    told = dict(part.split(" dB")[0].split(": ") for part in caught.value.seen.split("; "))
    assert [float(value) for value in told.values()] == pytest.approx(
        [10, 20, np.nan], abs=3, nan_ok=True
    )
    assert list(told) == ["fast", "slow", "odd"]


def test_a_form_that_does_not_run_is_passed_over() -> None:
    class Refuses(Off):
        def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
            if self.taken[len(feeds["input"])] == "fast":
                raise ModelError("no kernel")
            return super().run(feeds)

    assert held(Refuses({"fast": 120.0, "slow": 120.0})).form == "slow"
    with pytest.raises(ModelError, match="no kernel"):
        held(Refuses({"fast": 120.0}))


def test_a_probe_goes_to_another_process_as_it_is() -> None:
    known = fidelity.probe(rounded(), FLOAT, DATA, CPU)
    again = fidelity.unpacked(fidelity.packed(known, small=True))
    np.testing.assert_array_equal(again.inputs, known.inputs)
    np.testing.assert_array_equal(again.outputs["logits"], known.outputs["logits"])
    assert again.allowed == known.allowed


def test_outputs_that_are_not_finite_in_the_graph_are_not_asked_of_the_engine() -> None:
    known = fidelity.probe(FLOAT, FLOAT, DATA, CPU)
    outputs = known.outputs["logits"].copy()
    outputs[0, 0] = np.inf
    partly = fidelity.Probe(known.inputs, {"logits": outputs}, known.allowed)
    assert fidelity.settle(Off({"": 120.0}), partly, 4).share < 1


class Told(ReferenceRunner):
    """Answers that are known: a sample is its own index."""

    def __init__(self, outputs: Array, row: int | None = None) -> None:
        self.outputs, self.row = outputs, row
        self.signature = Signature(
            (TensorSpec("x", "float32", ("n", 1)),), (TensorSpec("y", "float32", ("n", 2)),)
        )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        found = self.outputs[feeds["x"][:, 0].astype(int)].copy()
        if self.row is not None:
            found[self.row] += 2
        return {"y": found}


def deep(inputs: Array, slip: float | None) -> Array:
    """A deep random residual network in 8-bit integers; in float without `slip`.

    `slip`: by how many steps a value is off when it is rounded, as it is where additions are
    ordered in another way.
    """
    rng, ties = np.random.default_rng(3), np.random.default_rng(4)
    values = inputs
    for layer in range(24):
        weights = rng.normal(size=(24, 24)) * np.sqrt(2 / 24)
        if slip is not None:
            step = 6 / 127
            off = slip * ties.normal(size=values.shape)
            values = np.clip(np.round(values / step + off), -127, 127) * step
        branch = np.maximum(values @ weights + 0.1 * rng.normal(size=24), 0)
        values = branch if layer == 0 else values + branch
        values = values / np.sqrt(np.square(values).mean(axis=1, keepdims=True))
    head = rng.normal(size=(24, 1))
    logit = (values - values.mean(axis=0)) @ head
    return np.concatenate([logit, -logit], axis=1).astype(np.float32)


@functools.cache
def ties() -> tuple[Array, Array, Array]:
    """Of 2000 samples: float outputs, those of the graph, those of an honest engine.

    The engine is off as measured of 21 convolutions in INT8 on OpenVINO: of six samples in a
    hundred by ten times what rounding does, of the others by a hundredth.
    """
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(2000, 24))
    floats, graph = deep(inputs, None), deep(inputs, 0)
    own = np.sqrt(np.square(graph - floats).sum(axis=1).mean() / 2)
    scale = np.where(rng.random(2000) < 0.06, np.sqrt(10), 0.1) * own
    engine = graph + (scale * rng.normal(size=2000))[:, None] * np.array([1, -1])
    return floats, graph, engine.astype(np.float32)


@functools.cache
def slipped() -> Array:
    """The same samples through the same network, with ties that fall otherwise in every layer."""
    return deep(np.random.default_rng(5).normal(size=(2000, 24)), 1e-3)


def of(outputs: Array, floats: Array, rows: Array) -> fidelity.Probe:
    allowed = fidelity._of_rounding(outputs[rows], floats[rows], known=True)
    return fidelity.Probe(rows[:, None].astype(np.float32), {"y": outputs[rows]}, {"y": allowed})


def refused(runner: Told, known: fidelity.Probe, batch: int) -> bool:
    try:
        fidelity.settle(runner, known, batch)
    except BuilderError:
        return True
    return False


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("samples", [8, 24])
def test_an_honest_engine_in_int8_is_not_refused_for_its_ties(samples: int, batch: int) -> None:
    floats, graph, engine = ties()
    others = slipped()
    rng = np.random.default_rng(samples + batch)
    for outputs in (engine, others):
        drawn = [rng.choice(2000, samples, replace=False) for _ in range(300)]
        lost = [refused(Told(outputs), of(graph, floats, rows), batch) for rows in drawn]
        assert np.mean(lost) <= 0.01


@pytest.mark.parametrize(("samples", "least"), [(8, 0.7), (24, 0.9)])
def test_an_engine_in_int8_that_is_off_by_ten_times_its_rounding_is_refused(
    samples: int, least: float
) -> None:
    floats, graph, _ = ties()
    rng = np.random.default_rng(samples)
    own = np.sqrt(np.square(graph - floats).mean())
    wrong = graph + np.sqrt(10) * own * rng.normal(size=graph.shape)
    drawn = [rng.choice(2000, samples, replace=False) for _ in range(100)]
    assert np.mean([refused(Told(wrong), of(graph, floats, rows), 8) for rows in drawn]) >= least


def test_a_row_of_a_batch_that_is_wrong_is_seen_in_int8_too() -> None:
    floats, graph, engine = ties()
    known = of(graph, floats, np.arange(24))
    assert not refused(Told(engine), known, 16)
    assert refused(Told(engine, row=11), known, 16)


def constant(proto: bytes, profile: DeviceProfile) -> bool:
    """Whether an engine that ignores its input is refused."""
    known = fidelity.probe(proto, proto, DATA, profile)
    mean = known.outputs["logits"].mean(axis=0)

    class Ignores(ReferenceRunner):
        def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
            return {"logits": np.tile(mean, (len(feeds["input"]), 1))}

    with pytest.raises(BuilderError):
        fidelity.settle(Ignores(small_models.linear()), known, 4)
    return True


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("integers", [True, False])
def test_an_engine_that_ignores_its_input_is_refused_whatever_is_added(
    integers: bool, kind: str
) -> None:
    import onnx

    model = onnx.load_from_string(rounded() if integers else FLOAT)
    product = model.graph.node[-1]
    product.output[0] = "product"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(300, np.float32), "far"))
    model.graph.node.append(onnx.helper.make_node("Add", ["product", "far"], ["logits"]))
    assert constant(model.SerializeToString(), DeviceProfile("some", "nobody", kind, ()))


def test_a_model_that_came_in_quantised_is_held_to_what_its_own_rounding_does() -> None:
    came = fidelity.probe(rounded(), rounded(), DATA, CPU)
    quantised = fidelity.probe(rounded(), FLOAT, DATA, CPU)
    assert came.allowed["logits"] == pytest.approx(quantised.allowed["logits"], rel=1e-5)
    with pytest.raises(BuilderError):
        fidelity.settle(Off({"": 18}), came, 4)


def test_a_gpu_s_engine_is_held_to_what_eleven_bits_do() -> None:
    gpu = DeviceProfile("gpu", "nobody", "gpu", ())
    allowed = fidelity.probe(FLOAT, FLOAT, DATA, gpu).allowed["logits"]
    outputs = held_outputs()["logits"]
    spread = np.square(outputs - outputs.mean(axis=0)).sum(axis=1).mean()
    assert allowed == pytest.approx(1e-3 * spread, rel=1e-3)  # eleven bits leave 60 dB and more


def test_a_probe_in_a_bundle_is_small_and_bounded_by_all_samples() -> None:
    large = np.zeros((24, 3, 600, 600), np.float32)
    known = fidelity.Probe(large, {"y": np.zeros((24, 4), np.float32)}, {"y": 2.0})
    assert len(known.stored().inputs) == 2
    assert len(fidelity.probe(FLOAT, FLOAT, DATA, CPU).stored().inputs) == 20
    assert known.stored().allowed == {"y": 2.0}


def test_what_is_no_probe_is_told() -> None:
    for content in (b"", b"PK", fidelity.packed(fidelity.probe(FLOAT, FLOAT, DATA, CPU))[:-40]):
        with pytest.raises(ValueError, match="not a probe"):
            fidelity.unpacked(content)


class Blank(Off):
    """Zeros, whatever comes in."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.zeros_like(each) for name, each in super().run(feeds).items()}


def far(away: float) -> bytes:
    """The float model by way of numbers far from zero, in BF16 wherever the runtime likes."""
    import onnx

    model = onnx.load_model_from_string(FLOAT)
    last = model.graph.node[-1]
    name, last.output[0] = last.output[0], "near"
    value = onnx.numpy_helper.from_array(np.full(1, away, np.float32), "far")
    model.graph.initializer.append(value)
    model.graph.node.append(onnx.helper.make_node("Add", ["near", "far"], ["shifted"]))
    model.graph.node.append(onnx.helper.make_node("Sub", ["shifted", "far"], [name]))
    onnx.helper.set_model_props(model, {HALF_KEY: "bf16"})
    return model.SerializeToString()


@pytest.mark.parametrize("away", [3.0, 3e3, 1e9])
def test_an_engine_may_keep_what_the_reference_loses_in_a_half_type(away: float) -> None:
    known = fidelity.probe(far(away), FLOAT, DATA, CPU)
    assert fidelity.settle(Off({"": 62}), known, 4).share < 1


@pytest.mark.parametrize("runner", [Off({"": -3}), Off({"": None}), Blank({"": 100})])
def test_an_engine_may_not_lose_what_the_reference_loses_in_a_half_type(runner: Runner) -> None:
    known = fidelity.probe(far(1e9), FLOAT, DATA, CPU)
    with pytest.raises(BuilderError) as caught:
        fidelity.settle(runner, known, 4)
    assert caught.value.id == "engine-differs"
