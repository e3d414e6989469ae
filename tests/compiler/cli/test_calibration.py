from __future__ import annotations

import shutil

import numpy as np


def test_a_clean_set_passes_and_a_fault_ends_with_4(rtc, project, tmp_path) -> None:
    for name in ("recipe.yaml", "model.onnx"):
        shutil.copy(project / name, tmp_path)
    draw = np.random.default_rng(1)
    x = draw.normal(size=(2000, 1, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x, y=np.arange(2000) % 3)
    clean = rtc("calibration", "audit", "recipe.yaml", "--json", "--quiet")
    assert clean.code == 0, clean.out
    assert clean.document["faults"] == []
    assert clean.document["compared_with"] == "test"
    assert clean.document["curve"][-1]["worst_error"] == 0.0

    (tmp_path / "here").mkdir()
    np.save(tmp_path / "here" / "a.npy", np.concatenate([x[:500], x[:500]]) * 255)
    text = (tmp_path / "recipe.yaml").read_text() + "calibration: {path: here}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    faulty = rtc("calibration", "audit", "recipe.yaml", "--quiet")
    assert faulty.code == 4
    assert "duplicates: 500 of 1000 samples" in faulty.out
    assert "normalisation: 0-255 where the model expects 0-1" in faulty.out
    assert "the calibration samples have faults (seen duplicates, normalisation)" in faulty.err
    compiled = rtc("compile", "recipe.yaml", "--target", "cpu", "--budget", "1s")
    assert "are not like the test samples: 0-255 where the model expects 0-1" in compiled.err
