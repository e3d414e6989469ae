"""The models of the comparison: each is trained once from its recipe, then kept."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rtc import recipes
from rtc.compiler.core.data import Preprocess, Splits
from rtc.compiler.core.progress import Listener
from rtc.compiler.core.unit import Unit
from rtc.compiler.execution.stages import Stages
from rtc.compiler.frontend.float_model import make_front
from rtc.compiler.frontend.samples import dataset_of, splits_of
from rtc.compiler.measure.provenance import physical_cores
from rtc.compiler.recipe.schema import Recipe, load_recipe
from rtc.compiler.storage.store import Store

_RECIPES = Path(recipes.__path__[0])
_MODEL, _SAMPLES = "model.onnx", "held-out.npz"


@dataclass(frozen=True)
class Entrant:
    """A model, and what rtc is to reach on it.

    Attributes:
        name: its name in tables.
        recipe: the recipe that trains it.
        drop: how much top-1 may be lost, as a fraction; None where speed alone counts.
        speedup: how many times faster than torch eager to be.
        search_s: how long the search may take.
    """

    name: str
    recipe: Path
    drop: float | None = 0.001
    speedup: float | None = None
    search_s: float | None = None


ENTRANTS = {
    each.name: each
    for each in (
        Entrant("lenet5", _RECIPES / "lenet5-mnist.yaml"),
        Entrant("resnet20", _RECIPES / "resnet20-signs43.yaml"),
        Entrant("resnet56", _RECIPES / "resnet56-signs43.yaml", search_s=180),
        Entrant("mobilenetv1", _RECIPES / "mobilenetv1-signs43.yaml", drop=0.005),
        Entrant("mobilenetv2", _RECIPES / "mobilenetv2-signs43.yaml", drop=0.005),
        Entrant(
            "resnet50",
            Path(__file__).with_name("resnet50.yaml"),
            drop=None,
            speedup=12,
            search_s=600,
        ),
    )
}


def entrant(name: str) -> Entrant:
    """A model by its name, or any recipe by its path.

    Raises:
        KeyError: neither.
    """
    path = Path(name)
    return Entrant(path.stem, path) if path.suffix == ".yaml" else ENTRANTS[name]


@dataclass(frozen=True)
class Trained:
    """A trained model and the samples that it was not trained on.

    Attributes:
        model: the float ONNX model that every peer starts from.
        eager: the same in PyTorch.
        preprocess: from raw samples to its input.
        classes: how many the data has.
        samples: an .npz file with `x` (raw, N first) and `y` (labels).
    """

    model: Unit
    eager: Unit
    preprocess: Preprocess
    classes: int
    samples: bytes


def trained(of: Entrant, store: Store, listener: Listener) -> Trained:
    """The model of a recipe, from the store or by training it.

    Unlike a compile's own stages, it is kept by what the recipe says, not by rtc's code as well:
    a comparison over time is one of the same weights.
    """
    recipe = load_recipe(of.recipe)
    data, dataset = splits_of(recipe), dataset_of(recipe)
    said = recipe.identity()
    parts = [said[key] for key in ("source", "passes", "seed")]
    key = store.key({"trained": parts, "data": data.digest})
    with store.lock(key):
        files = store.get(key)
        if files is None:
            files = _train(recipe, data, listener)
            store.put(key, files)
    return Trained(
        model=Unit.from_files(_part(files, "float.")),
        eager=Unit.from_files(_part(files, "eager.")),
        preprocess=recipe.data.preprocess or dataset.preprocess,
        classes=dataset.classes,
        samples=files[_SAMPLES],
    )


def _train(recipe: Recipe, data: Splits, listener: Listener) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        front = make_front(recipe, data, Stages(Store(Path(folder)), listener))
    assert front.eager is not None, "these recipes start from PyTorch"
    return kept(front.model, front.eager, data)


def kept(model: Unit, eager: Unit, data: Splits) -> dict[str, bytes]:
    """What the store keeps: both units, and every sample that they were not trained on."""
    held_out, content = (data.calibration, data.test), io.BytesIO()
    np.savez(
        content,
        x=np.concatenate([split.raw for split in held_out]),
        y=np.concatenate([split.labels for split in held_out if split.labels is not None]),
    )
    return {
        **{f"float.{name}": blob for name, blob in model.to_files().items()},
        **{f"eager.{name}": blob for name, blob in eager.to_files().items()},
        _SAMPLES: content.getvalue(),
    }


def _part(files: Mapping[str, bytes], prefix: str) -> dict[str, bytes]:
    return {n.removeprefix(prefix): blob for n, blob in files.items() if n.startswith(prefix)}


def compile_recipe(of: Entrant, what: Trained, folder: Path, *, samples: int, threads: int) -> Path:
    """Write what a user of rtc would: the ONNX file, its data and a recipe. The recipe's path.

    It also is where the peers' samples come from, see `rtc.compiler.frontend`: `samples` of the
    held-out ones calibrate, the others test.
    """
    (folder / _MODEL).write_bytes(what.model.onnx.proto)
    (folder / _SAMPLES).write_bytes(what.samples)
    total = len(np.load(io.BytesIO(what.samples))["y"])
    share = samples / total
    content: dict[str, Any] = {
        "recipe": 1,
        "name": of.name,
        "version": "1.0.0",
        "source": {"onnx": _MODEL},
        "data": {
            "npz": _SAMPLES,
            "classes": what.classes,
            "preprocess": _json(asdict(what.preprocess)),
            "split": {"train": 0.0, "calibration": share, "test": 1 - share},
        },
        "batch": 1,
        "targets": ["cpu"],
        # All cores: rtc may find that fewer of them are faster.
        "measure": {"threads": 0 if threads == physical_cores() else threads},
        # Random weights classify nothing: what agrees with them is no measure of a compiler.
        "gates": {"top1_drop": of.drop, "parity": None, "chance": None},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def _json(value: dict[str, Any]) -> dict[str, Any]:
    return {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}
