from __future__ import annotations

from dataclasses import replace

import pytest

from rtc.compiler.core.unit import Level, OnnxModel, Signature, TensorSpec, TorchModel, Unit

SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("n", 1, 4)),), (TensorSpec("y", "float32", ("n", 3)),)
)
ONNX = Unit(OnnxModel(b"bytes of a model"), SIGNATURE)
TORCH = Unit(TorchModel("nets:make", {"width": 3}, b"w", (("act", "relu"),), "sha256:1"), SIGNATURE)


@pytest.mark.parametrize("unit", [ONNX, TORCH])
def test_it_survives_its_files(unit: Unit) -> None:
    again = Unit.from_files(unit.to_files())
    assert again == unit
    assert again.digest == unit.digest
    assert again.signature == SIGNATURE


def test_whatever_is_of_it_counts_in_its_digest() -> None:
    other_shape = Signature((TensorSpec("x", "float32", (2, 1, 4)),), SIGNATURE.outputs)
    changed = [
        replace(ONNX, model=OnnxModel(b"other bytes")),
        replace(ONNX, signature=other_shape),
        TORCH,
        *(
            replace(TORCH, model=replace(TORCH.torch, **{name: value}))
            for name, value in {
                "factory": "nets:other",
                "options": {"width": 4},
                "weights": b"v",
                "edits": (),
                "code": "sha256:2",
            }.items()
        ),
    ]
    assert len({unit.digest for unit in (ONNX, *changed)}) == len(changed) + 1


def test_a_level_is_asked_for_what_it_has() -> None:
    assert (ONNX.level, TORCH.level) == (Level.ONNX, Level.TORCH)
    with pytest.raises(TypeError, match="at the ONNX level"):
        _ = ONNX.torch
    with pytest.raises(TypeError, match="at the PyTorch level"):
        _ = TORCH.onnx


def test_a_batch_is_fixed_where_it_is_a_number() -> None:
    assert ONNX.fixed_batch is None
    fixed = Signature((TensorSpec("x", "float32", (2, 4)),), SIGNATURE.outputs)
    assert replace(ONNX, signature=fixed).fixed_batch == 2
