"""What becomes of a candidate that cannot be built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from check_pass import unit_of
from digits_net import digits, digits_net
from wrong_runtime import WrongRuntime

from rtc.compiler.building.builder import Candidate, output_shapes
from rtc.compiler.building.engines import build_here, built_from_files, built_to_files
from rtc.compiler.candidates import offer
from rtc.compiler.candidates.offer import Missing, candidates
from rtc.compiler.core.errors import MachineError, RecipeError, RtcError
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.core.unit import OnnxModel, Signature, Unit
from rtc.compiler.execution.stages import Stages
from rtc.compiler.lowering.job import Job
from rtc.compiler.lowering.plan_writer import PlanWriter
from rtc.compiler.process import sandbox
from rtc.compiler.recipe.schema import load_recipe
from rtc.compiler.storage.store import Store
from rtc.targets import loader

RECIPE = """
recipe: 1
name: nothing
version: 1.0.0
source: {onnx: nothing.onnx}
data: {dataset: "rtc.recipes.datasets.mnist:mnist5k"}
precision: {offer: [fp32, int8]}
"""


def job_of(tmp_path: Path, recipe: str, target: str) -> Job:
    (tmp_path / "nothing.onnx").write_bytes(b"")
    (tmp_path / "recipe.yaml").write_text(recipe)
    return Job(
        load_recipe(tmp_path / "recipe.yaml"),
        Unit(OnnxModel(b""), Signature((), ())),
        PassContext(data=None),
        BuildRequest(loader.profile(target), (1, 4, 4)),
        Stages(Store(tmp_path / "store"), Nobody(), fresh=False),
    )


@pytest.fixture
def outcomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[RtcError], list[tuple[str, str, str]]]:
    """What becomes of candidates that fail as they are told to."""

    def of(error: RtcError) -> list[tuple[str, str, str]]:
        def failing(*_: object) -> Candidate:
            raise error

        monkeypatch.setattr(offer, "candidate", failing)
        found = candidates(job_of(tmp_path, RECIPE, "cpu"), loader.backend("onnxruntime"))
        return [(each.name, each.state, each.reason) for each in found if isinstance(each, Missing)]

    return of


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (MachineError("the build needed more than 16 GB", id="out-of-memory"), "failed"),
        (RecipeError("up cannot be pinned to int8", id="unsupported-pin"), "left out"),
    ],
)
def test_what_concerns_one_candidate_leaves_the_others_alone(
    outcomes: Callable[[RtcError], object], error: RtcError, state: str
) -> None:
    assert outcomes(error) == [
        ("onnxruntime fp32", state, str(error)),
        ("onnxruntime int8", state, str(error)),
    ]


@pytest.mark.parametrize(
    "error",
    [MachineError("no process", id="no-process"), RecipeError("no layer", id="unmatched-pin")],
)
def test_what_concerns_every_candidate_ends_the_compile(
    outcomes: Callable[[RtcError], object], error: RtcError
) -> None:
    with pytest.raises(type(error), match=error.what):
        outcomes(error)


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
    writer = PlanWriter(job_of(tmp_path, recipe, target), loader.backend(backend))
    assert writer.target.scheme.per_channel is per_channel


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A float network for this CPU, at batches 1 and 8."""
    (tmp_path / "nothing.onnx").write_bytes(b"")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("[fp32, int8]", "[fp32]"))
    data = digits()
    return Job(
        load_recipe(tmp_path / "recipe.yaml"),
        unit_of(digits_net(data.train)),
        PassContext(data),
        BuildRequest(loader.profile("cpu"), (1, 8, 8), threads=1),
        Stages(Store(tmp_path / "store"), Nobody(), fresh=False),
    )


@pytest.mark.parametrize("wrong", [1, 8])
def test_an_engine_that_is_wrong_at_a_batch_is_no_candidate(
    monkeypatch: pytest.MonkeyPatch, job: Job, wrong: int
) -> None:
    def here(entry: str, *, files: Any, args: Any, **_: Any) -> dict[str, bytes]:
        return build_here(files, args)

    monkeypatch.setattr(sandbox, "run", here)
    monkeypatch.setattr(loader, "backend", lambda name: WrongRuntime(wrong))
    (found,) = candidates(job, WrongRuntime(wrong))
    assert isinstance(found, Missing)
    assert found.state == "failed"
    assert f"batch {wrong}: the engine computes something else than its graph" in found.reason
    assert "seen 20." in found.reason  # dB of most samples


def test_a_built_engine_tells_the_batches_that_it_was_held_at(job: Job) -> None:
    (found,) = candidates(job, loader.backend("onnxruntime"))
    assert isinstance(found, Candidate)
    assert found.built.forms == found.request.forms == {1: "", 8: ""}
    assert built_from_files(built_to_files(found.built)) == found.built


def test_shapes_behind_an_operator_of_the_runtimes_own_are_told() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[batch,8] x) => (float[batch,8] y) {
            [gelu] g = com.microsoft.QuickGelu (x)
            [back] y = Relu (g)
        }""")
    assert output_shapes(unit_of(model.SerializeToString())) == {
        "gelu": "batch×8",
        "back": "batch×8",
    }
