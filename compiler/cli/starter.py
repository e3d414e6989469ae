"""The text of a starter recipe; for an ONNX file, with what its input and output ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template

from rtc.compiler.cli.answer import printable
from rtc.compiler.core.unit import TensorSpec

_COLOUR = "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], layout: hwc"
_GREY = "mean: [0.5], std: [0.5], layout: hw"
_PLAIN = "# or (raw * scale - mean) / std: {scale: 1.0, mean: [0.0], std: [1.0], layout: as-is}"


def starter(name: str, onnx: str | None, facts: Mapping[str, str]) -> str:
    """A recipe of that name; `onnx` as the recipe names the file that `facts` are of."""
    file = "starter.yaml" if onnx is None else "starter-onnx.yaml"
    text = resources.files("rtc.compiler.cli").joinpath(file).read_text(encoding="utf-8")
    text = text.replace("name: my-model", f"name: {name}", 1)
    return text if onnx is None else Template(text).substitute(facts, onnx=json.dumps(onnx))


def facts_of(path: Path) -> dict[str, str]:
    """What the starter says of an ONNX file, by the names in its template.

    Raises:
        ModelError: it cannot be read as ONNX, or rtc does not compile such a model.
    """
    from rtc.compiler.frontend.source import classes_of, onnx_unit

    signature = onnx_unit(path).signature
    given, gives = signature.inputs[0], signature.outputs[0]
    batch, classes = given.shape[0], classes_of(gives)
    known = isinstance(classes, int) and classes >= 2
    return {
        "input": f"{printable(given.name)}: {given.dtype} ({_sizes(given)})",
        "output": f"{printable(gives.name)} ({_sizes(gives)})",
        "shape": _sizes(given),
        "dtype": given.dtype,
        "classes": str(classes if known else 2),
        "last": str(int(classes) - 1 if known else 1),
        "counted": "" if known else "  # the file does not tell: put yours",
        "batch": str(batch if isinstance(batch, int) else 1),
        "pictures": _pictures(given),
    }


def _sizes(spec: TensorSpec) -> str:
    return ", ".join(printable(str(size)) for size in ("N", *spec.shape[1:]))


def _pictures(given: TensorSpec) -> str:
    """A guess at the preprocessing of pictures, as a comment, where the input may be one."""
    sample = given.shape[1:]
    if len(sample) != 3 or sample[0] not in {1, 3}:
        return _PLAIN
    colour = sample[0] == 3
    height, width = (printable(str(size)) for size in sample[1:])
    raw = f"uint8 (N, {height}, {width}{', 3' if colour else ''})"
    how = f"{{scale: 0.00392156862745098, {_COLOUR if colour else _GREY}}}"
    return f"# Of pictures as they are stored, {raw}, often:\n  # preprocess: {how}"
