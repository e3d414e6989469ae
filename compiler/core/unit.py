"""What flows through the pipeline: a model at one of two levels, as plain data.

A unit is bytes and names, never a live object: it has a digest, it fits in the store, and a child
process can be handed it. A PyTorch model is a factory's name, its options, a safetensors file and
the edits made since; nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rtc.compiler.core.words import Word


class Level(Word):
    """What kind of model a unit holds."""

    TORCH = "torch"
    ONNX = "onnx"


@dataclass(frozen=True)
class TensorSpec:
    """A named input or output. `shape`: an int where fixed, a str where dynamic."""

    name: str
    dtype: str  # numpy's name: "float32"
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Signature:
    """What goes in and what comes out; dimension 0 of every tensor is the batch."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON types; the inverse of `from_dict`."""
        return {
            side: [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in tensors]
            for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs))
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Signature:
        """The inverse of `to_dict`."""

        def read(side: str) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in fields[side])

        return cls(read("inputs"), read("outputs"))


@dataclass(frozen=True)
class TorchModel:
    """A PyTorch module as data.

    Attributes:
        factory: "package.module:function"; called with `options`, it gives an `nn.Module`.
        options: keyword arguments of the factory, JSON types.
        weights: a safetensors file with the module's whole `state_dict`.
        edits: (module path, replacement activation), applied in order after construction.
        code: the digest of the source that the factory stands on, where it is known: a model of the
            same weights and other code is another.
    """

    factory: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: bytes = b""
    edits: tuple[tuple[str, str], ...] = ()
    code: str = ""


@dataclass(frozen=True)
class OnnxModel:
    """A serialised `onnx.ModelProto` without external data."""

    proto: bytes


@dataclass(frozen=True)
class Unit:
    """A model and its signature."""

    model: TorchModel | OnnxModel
    signature: Signature

    @property
    def level(self) -> Level:
        """What kind of model it is."""
        return Level.TORCH if isinstance(self.model, TorchModel) else Level.ONNX

    @property
    def fixed_batch(self) -> int | None:
        """The batch that the model takes and no other; None where it takes any."""
        first = self.signature.inputs[0].shape[0]
        return first if isinstance(first, int) else None

    @property
    def torch(self) -> TorchModel:
        """The PyTorch model; asking an ONNX unit for it is a bug of the caller."""
        if not isinstance(self.model, TorchModel):
            raise TypeError("this unit is at the ONNX level")
        return self.model

    @property
    def onnx(self) -> OnnxModel:
        """The ONNX model; asking a PyTorch unit for it is a bug of the caller."""
        if not isinstance(self.model, OnnxModel):
            raise TypeError("this unit is at the PyTorch level")
        return self.model

    @cached_property
    def digest(self) -> str:
        """The "sha256:…" over every file of the unit."""
        total = hashlib.sha256()
        for name, content in sorted(self.to_files().items()):
            total.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        return f"sha256:{total.hexdigest()}"

    def to_files(self) -> dict[str, bytes]:
        """The unit as files, for the store: `unit.json` and the model's own file."""
        head: dict[str, Any] = {"level": self.level.value, "signature": self.signature.to_dict()}
        if isinstance(self.model, OnnxModel):
            return {"unit.json": _json(head), "model.onnx": self.model.proto}
        head |= {
            "factory": self.model.factory,
            "options": dict(self.model.options),
            "edits": [list(edit) for edit in self.model.edits],
            "code": self.model.code,
        }
        return {"unit.json": _json(head), "model.safetensors": self.model.weights}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Unit:
        """The inverse of `to_files`."""
        head = json.loads(files["unit.json"])
        signature = Signature.from_dict(head["signature"])
        if head["level"] == Level.ONNX.value:
            return cls(OnnxModel(files["model.onnx"]), signature)
        edits = tuple((path, name) for path, name in head["edits"])
        weights = files["model.safetensors"]
        model = TorchModel(head["factory"], head["options"], weights, edits, head["code"])
        return cls(model, signature)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
