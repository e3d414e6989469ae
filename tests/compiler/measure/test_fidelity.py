"""How far an engine may be from its graph, and which form of a batch is taken."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import small_models

from rtc.compiler.core.data import Array
from rtc.compiler.core.errors import BuilderError, ModelError
from rtc.compiler.core.target import DeviceProfile, Runner
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


@pytest.mark.parametrize(("decibels", "right"), [(100, True), (62, True), (55, False), (30, False)])
def test_a_float_engine_is_right_to_60_db(decibels: float, right: bool) -> None:
    if right:
        assert held(Off({"": decibels})).decibels == pytest.approx(decibels, abs=0.5)
        return
    with pytest.raises(BuilderError) as caught:
        held(Off({"": decibels}))
    assert caught.value.id == "engine-differs"
    assert (caught.value.where, caught.value.seen[:4]) == ("batch 4", f"{decibels}.0")
    assert caught.value.expected.startswith("at least 60.0 dB")


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
    with pytest.raises(BuilderError, match=r"batch 8.*5\.0 dB"):
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
    assert [part.split(" dB")[0] for part in caught.value.seen.split("; ")] == [
        "fast: 10.0",
        "slow: 20.0",
        "odd: nan",
    ]


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
    again = fidelity.unpacked(*fidelity.packed(known))
    np.testing.assert_array_equal(again.inputs, known.inputs)
    np.testing.assert_array_equal(again.outputs["logits"], known.outputs["logits"])
    assert again.allowed == known.allowed


def test_outputs_that_are_not_finite_in_the_graph_are_not_asked_of_the_engine() -> None:
    known = fidelity.probe(FLOAT, FLOAT, DATA, CPU)
    outputs = known.outputs["logits"].copy()
    outputs[0, 0] = np.inf
    partly = fidelity.Probe(known.inputs, {"logits": outputs}, known.allowed)
    assert fidelity.settle(Off({"": 120.0}), partly, 4).share < 1
