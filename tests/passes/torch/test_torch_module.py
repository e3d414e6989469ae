from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from digits import TEACHER, few_digits
from safetensors.torch import load, save

from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import DataError, MachineError, ModelError, RecipeError
from rtc.compiler.core.unit import Signature, TensorSpec, TorchModel, Unit
from rtc.passes.torch.torch_module import (
    ACTIVATIONS,
    Activation,
    activation_name,
    build,
    load_weights_file,
    pack,
    source_unit,
)


@pytest.fixture(scope="module")
def samples() -> Split:
    return few_digits(100).train


@pytest.fixture(scope="module")
def lenet(samples: Split) -> Unit:
    return source_unit(TEACHER, {}, b"", samples, seed=3)


def test_source_without_weights_is_initialised_by_its_seed(lenet: Unit, samples: Split) -> None:
    assert lenet.signature == Signature(
        (TensorSpec("input", "float32", ("batch", 1, 28, 28)),),
        (TensorSpec("logits", "float32", ("batch", 10)),),
    )
    torch.manual_seed(11)  # the seed that counts is the unit's
    assert source_unit(TEACHER, {}, b"", samples, seed=3).digest == lenet.digest
    assert source_unit(TEACHER, {}, b"", samples, seed=4).digest != lenet.digest


def test_building_leaves_the_random_state_alone(lenet: Unit) -> None:
    before = torch.random.get_rng_state()
    build(TorchModel(TEACHER))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_pack_and_build_are_inverse_with_tied_and_strided_weights(samples: Split) -> None:
    model = source_unit("torch_models:tied", {}, b"", samples, seed=0).torch
    module = build(model)
    assert module.first.weight is module.second.weight
    assert pack(module, model) == model
    assert set(load(model.weights)) == {"first.weight", "second.weight", "last"}


def test_edits_are_built_in(lenet: Unit) -> None:
    edited = TorchModel(TEACHER, {}, lenet.torch.weights, (("act2", "hardswish"),))
    module = build(edited)
    assert isinstance(module.get_submodule("act2"), torch.nn.Hardswish)
    assert isinstance(module.get_submodule("act1"), torch.nn.GELU)
    assert pack(module, edited).edits == edited.edits


def test_every_activation_can_be_named_in_an_edit_and_is_known_again() -> None:
    assert set(get_args(Activation)) == set(ACTIVATIONS)
    for name in ACTIVATIONS:
        module = build(TorchModel(TEACHER, edits=(("act1", name),)))
        assert activation_name(module.get_submodule("act1")) == name
    assert activation_name(torch.nn.LeakyReLU()) is None


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["zip", "pickle"])
def test_pickles_are_refused_and_not_run(tmp_path: Path, how: str) -> None:
    path, sprung = tmp_path / "model.safetensors", tmp_path / "sprung"
    if how == "zip":
        torch.save({"trap": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(ModelError) as refused:
        load_weights_file(path)
    assert refused.value.id == "pickle"
    assert "safetensors.torch.save_file" in refused.value.fix
    assert not sprung.exists()


def test_every_truncation_of_a_weights_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    whole = save({"w": torch.ones(3), "b": torch.zeros(1)})
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError) as refused:
            load_weights_file(path)
        assert refused.value.id == "unreadable-weights"
    path.write_bytes(whole)
    assert load_weights_file(path) == whole


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save({"fine": torch.ones(2), "fc.weight": torch.tensor([1.0, value])}))
    with pytest.raises(ModelError, match=r"fc\.weight: .* \(seen 1 of 2 values\)"):
        load_weights_file(path)


def test_weights_of_another_model_are_listed(lenet: Unit, samples: Split) -> None:
    state = load(lenet.torch.weights)
    del state["fc1.bias"]
    state["fc2.bias"] = torch.zeros(7)
    state["fc2.weight"] = state["fc2.weight"].long()
    state["head.bias"] = torch.zeros(1)
    with pytest.raises(ModelError) as refused:
        source_unit(TEACHER, {}, save(state), samples, seed=0)
    assert refused.value.id == "weights-mismatch"
    assert refused.value.seen == (
        "fc1.bias is missing; fc2.bias is 7, not 84; "
        "fc2.weight is 84×120 of int64, not 84×120; head.bias is not the model's"
    )


def test_half_precision_weights_load_into_a_float_model(lenet: Unit, samples: Split) -> None:
    halves = {name: value.half() for name, value in load(lenet.torch.weights).items()}
    unit = source_unit(TEACHER, {}, save(halves), samples, seed=0)
    assert load(unit.torch.weights)["fc1.bias"].dtype == torch.float32


def test_missing_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MachineError) as missing:
        build(TorchModel(TEACHER))
    assert missing.value.id == "missing-extra"
    assert missing.value.fix == "pip install 'rtc-compiler[torch]'"


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("rtc.recipes.models.lenet5:techer", {}, 'did you mean "teacher"'),
        (TEACHER, {"activaton": "relu"}, 'did you mean "activation"'),
        (TEACHER, {"activation": "reLU6"}, 'did you mean "relu"'),
        ("torch_models:no_module", {}, "must return a torch.nn.Module .seen list"),
        ("torch_models:__name__", {}, "not a function"),
    ],
)
def test_a_factory_that_cannot_be_called(factory: str, options: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(TorchModel(factory, options))


def test_samples_that_the_model_does_not_take(samples: Split) -> None:
    flat = Split("flat", samples.raw.reshape(-1, 784), None, Preprocess())
    with pytest.raises(ModelError) as refused:
        source_unit(TEACHER, {}, b"", flat, seed=0)
    assert refused.value.id == "sample-shape"
    assert "(1, 784)" in refused.value.seen
    with pytest.raises(DataError):
        source_unit(TEACHER, {}, b"", samples.head(0), seed=0)
    with pytest.raises(ModelError, match="must return one tensor"):
        source_unit("torch_models:pair", {}, b"", samples, seed=0)


@pytest.mark.parametrize("name", ["images", "numbers"])
def test_an_output_that_is_no_row_of_classes_is_refused_at_the_source(
    samples: Split, name: str
) -> None:
    with pytest.raises(ModelError, match="not a classifier's") as refused:
        source_unit(f"torch_models:{name}", {}, b"", samples, seed=0)
    assert refused.value.id == "signature"
