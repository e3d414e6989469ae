"""What becomes of a candidate that cannot be built."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rtc.compiler.building import Builder, Candidate, Missing
from rtc.compiler.core.errors import MachineError, RecipeError, RtcError
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.target import Backend, BuildRequest
from rtc.compiler.core.unit import OnnxModel, Signature, Unit
from rtc.compiler.recipe import load_recipe
from rtc.compiler.stages import Stages
from rtc.compiler.store import Store
from rtc.targets import loader

RECIPE = """
recipe: 1
name: nothing
version: 1.0.0
source: {onnx: nothing.onnx}
data: {dataset: "rtc.recipes.datasets.mnist:mnist5k"}
precision: {offer: [fp32, int8]}
"""


@dataclass(frozen=True)
class Failing(Builder):
    """Fails at the INT8 candidate as it is told to, and is asked for that alone."""

    error: RtcError = field(kw_only=True)

    def candidate(self, backend: Backend, variant: Variant) -> Candidate:
        raise self.error


def builder_of(tmp_path: Path, recipe: str, target: str, error: RtcError) -> Failing:
    (tmp_path / "nothing.onnx").write_bytes(b"")
    (tmp_path / "recipe.yaml").write_text(recipe)
    return Failing(
        load_recipe(tmp_path / "recipe.yaml"),
        Unit(OnnxModel(b""), Signature((), ())),
        PassContext(data=None),
        BuildRequest(loader.profile(target), (1, 4, 4)),
        Stages(Store(tmp_path / "store"), Nobody(), fresh=False),
        error=error,
    )


def outcomes(tmp_path: Path, error: RtcError) -> list[tuple[str, str, str]]:
    builder = builder_of(tmp_path, RECIPE, "cpu", error)
    found = builder.candidates(loader.backend("onnxruntime"))
    return [(each.name, each.state, each.reason) for each in found if isinstance(each, Missing)]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (MachineError("the build needed more than 16 GB", id="out-of-memory"), "failed"),
        (RecipeError("up cannot be pinned to int8", id="unsupported-pin"), "left out"),
    ],
)
def test_what_concerns_one_candidate_leaves_the_others_alone(
    tmp_path: Path, error: RtcError, state: str
) -> None:
    assert outcomes(tmp_path, error) == [
        ("onnxruntime fp32", state, str(error)),
        ("onnxruntime int8", state, str(error)),
    ]


@pytest.mark.parametrize(
    "error",
    [MachineError("no process", id="no-process"), RecipeError("no layer", id="unmatched-pin")],
)
def test_what_concerns_every_candidate_ends_the_compile(tmp_path: Path, error: RtcError) -> None:
    with pytest.raises(type(error), match=error.what):
        outcomes(tmp_path, error)


@pytest.mark.parametrize(
    ("target", "backend", "said", "per_channel"),
    [
        ("rtx4060ti", "tensorrt_rtx", "", False),
        ("cpu", "onnxruntime", "", True),
        ("rtx4060ti", "tensorrt_rtx", ", granularity: channel", True),
        ("cpu", "onnxruntime", ", granularity: tensor", False),
    ],
)
def test_weights_have_the_scales_that_the_runtime_wants_unless_the_recipe_says_otherwise(
    tmp_path: Path, target: str, backend: str, said: str, per_channel: bool
) -> None:
    recipe = RECIPE.replace("[fp32, int8]", f"[fp32, int8]{said}")
    builder = builder_of(tmp_path, recipe, target, RtcError("not asked for"))
    assert builder.target(loader.backend(backend)).scheme.per_channel is per_channel
