"""Repairs that a recipe asks for, where candidates are built."""

from __future__ import annotations

from pathlib import Path

import onnx
import yaml
from hostile import DATA, digits_unit
from onnx import numpy_helper

from rtc.compiler.building.builder import Candidate
from rtc.compiler.candidates.offer import candidates
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.documents import strict_yaml
from rtc.compiler.execution.stages import Stages
from rtc.compiler.frontend.float_model import _observe
from rtc.compiler.lowering.job import Job
from rtc.compiler.recipe import schema
from rtc.compiler.storage.store import Store
from rtc.targets import loader

REPAIRS = {"adaround": {"below_snr_db": 100, "samples": 64}, "correct-bias": {"samples": 64}}


def candidate(folder: Path, repairs: dict[str, object], ranges: str = "plain") -> Candidate:
    """The INT8 candidate of ONNX Runtime for the digits net."""
    text = {
        "recipe": 1,
        "name": "digits",
        "version": "1.0.0",
        "source": {"onnx": "digits.onnx"},
        "data": {"dataset": "rtc.recipes.datasets.mnist:mnist5k"},
        "precision": {"offer": ["int8"], "ranges": ranges, "repairs": repairs},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(text))
    read = schema.parse_recipe(strict_yaml.read(path), path)
    unit = digits_unit()
    stages = Stages(Store(folder / "store"), Nobody())
    seen = _observe(read, unit, DATA, stages)
    request = BuildRequest(loader.profile("cpu"), (1, 4, 4))
    job = Job(read, unit, PassContext(DATA, statistics=seen), request, stages)
    (found,) = candidates(job, loader.backend("onnxruntime"))
    assert isinstance(found, Candidate), found
    return found


def test_repairs_run_one_upon_the_other_before_int8_is_written(tmp_path: Path) -> None:
    plain, repaired = candidate(tmp_path, {}), candidate(tmp_path, REPAIRS)
    assert [row.stage.split()[0] for row in plain.certificates] == ["insert-qdq", "cast-precision"]
    rows = repaired.certificates
    names = [row.stage.removesuffix(" (onnxruntime int8)") for row in rows]
    assert names == ["adaround", "correct-bias", "insert-qdq", "cast-precision"]
    assert all(row.passed for row in rows)
    assert [row.after for row in rows[:-1]] == [row.before for row in rows[1:]]
    assert rows[0].before != rows[0].after
    assert rows[1].before != rows[1].after
    assert weights(plain) != weights(repaired)


def weights(candidate: Candidate) -> bytes:
    """The integers that the last layer's weights are stored as."""
    graph = onnx.load_model_from_string(candidate.graph.onnx.proto).graph
    stored = next(each for each in graph.initializer if each.name == "fc/weight/q")
    return numpy_helper.to_array(stored).tobytes()


def test_ranges_are_taken_anew_before_the_repairs_look_at_them(tmp_path: Path) -> None:
    found = candidate(tmp_path, {"correct-bias": {"samples": 64}}, ranges="segmented")
    names = [row.stage.removesuffix(" (onnxruntime int8)") for row in found.certificates]
    assert names == ["calibrate-segments", "correct-bias", "insert-qdq", "cast-precision"]
    assert all(row.passed for row in found.certificates)
    again = candidate(tmp_path, {"correct-bias": {"samples": 64}}, ranges="segmented")
    assert again.graph.digest == found.graph.digest  # from the store
