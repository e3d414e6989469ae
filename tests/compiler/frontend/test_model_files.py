"""Weights beside a model: read where the model may name them, and nowhere else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from rtc.calibration.oracle import Oracle
from rtc.compiler.core import stamps
from rtc.compiler.core.errors import ModelError
from rtc.compiler.frontend import model_files
from rtc.compiler.frontend.model_files import (
    MODEL,
    ModelFiles,
    list_locations,
    model_digests,
    read_model_files,
)
from rtc.compiler.frontend.source import onnx_unit, read_model

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4] x) => (float[N,3] y) {
  c = Constant<value = float[3] {0, 0, 0}>()
  a = MatMul(x, w)
  y = Add(a, c)
}
"""
DRAW = np.random.default_rng(0)
W, C = DRAW.normal(size=(4, 3)).astype(np.float32), DRAW.normal(size=3).astype(np.float32)
X = DRAW.normal(size=(2, 4)).astype(np.float32)


def outside(tensor: TensorProto, location: str, **where: object) -> None:
    """Say of a tensor that its values lie elsewhere."""
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **where}.items():
        tensor.external_data.add(key=key, value=str(value))


def model(location: str = "w.data", **where: object) -> onnx.ModelProto:
    """A model whose matrix lies beside it; the vector that it adds is a Constant node's."""
    made = onnx.parser.parse_model(TEXT)
    made.graph.initializer.append(numpy_helper.from_array(W, "w"))
    outside(made.graph.initializer[0], location, **where)
    made.graph.node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(C, "c"))
    return made


def written(folder: Path, made: onnx.ModelProto) -> Path:
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder / "model.onnx"


def answers(path: Path) -> np.ndarray:
    with Oracle(onnx_unit(path).onnx.proto) as oracle:
        return oracle.run(X)["y"]


@pytest.mark.parametrize("location", ["w.data", "./w.data", "deep/er/w.data"])
def test_weights_beside_a_model_are_read(tmp_path: Path, location: str) -> None:
    (tmp_path / location).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / location).write_bytes(W.tobytes())
    path = written(tmp_path, model(location))
    np.testing.assert_allclose(answers(path), X @ W + C, rtol=1e-6)


def test_files_are_digested_once_while_they_are_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def counted(path: Path) -> ModelFiles:
        reads.append(path)
        return read_model_files(path)

    monkeypatch.setattr(model_files, "read_model_files", counted)
    weights = tmp_path / "w.data"
    weights.write_bytes(W.tobytes())
    path = written(tmp_path, model())
    assert model_digests(path, "model.onnx") == model_digests(path, "model.onnx")
    assert len(reads) == 2  # they were written just now
    monkeypatch.setattr(stamps, "_SETTLED_NS", 0)
    first, before = model_digests(path, "model.onnx"), weights.stat()
    assert model_digests(path, "model.onnx") == first
    assert model_digests(path, "here/model.onnx").keys() == {"here/model.onnx", "here/w.data"}
    assert len(reads) == 4
    time.sleep(0.02)
    weights.write_bytes((W + 1).tobytes())
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = model_digests(path, "model.onnx")
    assert {name for name in first if first[name] != changed[name]} == {"w.data"}


def test_one_relative_path_in_two_folders_is_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "_SETTLED_NS", 0)
    digests = []
    for name, values in (("one", W), ("two", W + 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.data").write_bytes(values.tobytes())
        written(tmp_path / name, model())
        monkeypatch.chdir(tmp_path / name)
        digests.append(model_digests(Path("model.onnx"), "model.onnx"))
    assert digests[0]["model.onnx"] == digests[1]["model.onnx"]
    assert digests[0]["w.data"] != digests[1]["w.data"]


def test_several_files_with_offsets_and_constants_of_nodes_too(tmp_path: Path) -> None:
    made = model("a.data", offset=64, length=W.nbytes)
    outside(made.graph.node[0].attribute[0].t, "b.data", offset=8)
    (tmp_path / "a.data").write_bytes(bytes(64) + W.tobytes() + b"more")
    (tmp_path / "b.data").write_bytes(bytes(8) + C.tobytes())
    path = written(tmp_path, made)
    np.testing.assert_allclose(answers(path), X @ W + C, rtol=1e-6)
    digests = read_model_files(path).digests("nets/model.onnx")
    assert set(digests) == {"nets/model.onnx", "nets/a.data", "nets/b.data"}
    (tmp_path / "b.data").write_bytes(bytes(8) + (-C).tobytes())
    after = read_model_files(path).digests("nets/model.onnx")
    assert [name for name in digests if digests[name] != after[name]] == ["nets/b.data"]


def by_link(folder: Path) -> str:
    (folder / "w.data").symlink_to(folder.parent / "secret")
    return "w.data"


def by_a_folders_link(folder: Path) -> str:
    (folder / "deep").symlink_to(folder.parent)
    return "deep/secret"


def by_hard_link(folder: Path) -> str:
    os.link(folder.parent / "secret", folder / "w.data")
    return "w.data"


def by_fifo(folder: Path) -> str:
    os.mkfifo(folder / "w.data")
    return "w.data"


def by_folder(folder: Path) -> str:
    (folder / "w.data").mkdir()
    return "w.data"


@pytest.mark.parametrize(
    "place",
    [
        lambda folder: str(folder.parent / "secret"),
        lambda folder: "../secret",
        lambda folder: "deep/../../secret",
        lambda folder: "",
        lambda folder: "w\0.data",
        by_link,
        by_a_folders_link,
        by_hard_link,
        by_fifo,
        by_folder,
    ],
)
def test_no_other_file_is_read(tmp_path: Path, place: Callable[[Path], str]) -> None:
    (tmp_path / "secret").write_bytes(W.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    path = written(folder, model(place(folder)))
    with pytest.raises(ModelError) as refused:
        onnx_unit(path)
    assert refused.value.id == "external-data"
    assert refused.value.exit_code == 3


@pytest.mark.parametrize(
    "where",
    [
        {"offset": 4},
        {"length": W.nbytes + 4},
        {"length": W.nbytes - 4},
        {"offset": -8},
        {"offset": 1 << 70},
        {"offset": "0x0"},
        {"length": "٤٨"},
    ],
)
def test_offsets_and_lengths_outside_the_file_are_refused(tmp_path: Path, where: dict) -> None:
    (tmp_path / "w.data").write_bytes(W.tobytes())
    path = written(tmp_path, model(**where))
    with pytest.raises(ModelError, match="does not lie where the model says") as refused:
        onnx_unit(path)
    assert refused.value.id == "external-data"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, model())
    with pytest.raises(ModelError, match=r"w\.data.*copy it beside the model") as refused:
        onnx_unit(path)
    assert refused.value.id == "missing-external-data"


def test_more_than_a_protobuf_holds_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "w.data").open("wb") as stream:
        stream.truncate(1 << 40)  # sparse
    with pytest.raises(ModelError, match="2 GB"):
        onnx_unit(written(tmp_path, model()))


def test_no_damage_is_more_than_a_refusal() -> None:
    content = model(offset=0, length=W.nbytes).SerializeToString()
    draw, read = np.random.default_rng(0), 0
    for number in range(300):
        damaged = bytearray(content)
        for _ in range(draw.integers(1, 4)):
            damaged[draw.integers(len(damaged))] ^= 1 << draw.integers(8)
        proto = bytes(damaged[: None if number % 5 else draw.integers(1, len(damaged))])
        try:
            named = json.loads(list_locations({MODEL: proto}, {})["locations.json"])
            read_model(ModelFiles(proto, dict.fromkeys(named, W.tobytes())).for_child(), {})
            read += 1
        except ModelError:
            continue
    assert 0 < read < 300
