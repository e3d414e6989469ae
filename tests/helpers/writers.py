"""Writers for `faults`: our own, and a naive one that the harness must find guilty.

python writers.py SCENARIO FAULT ROOT [--lasting | --kills N]    prints what was found, as JSON
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path

import faults

from rtc.compiler.bundle import bundles
from rtc.compiler.core.errors import IntegrityError, RecipeError
from rtc.compiler.core.unit import Signature, TensorSpec
from rtc.compiler.storage.store import Store

OLD, NEW = "1.0.0+0123456789ab", "1.1.0+ba9876543210"
AFRESH = f"{NEW}.2"
FILES = {"engine.onnx": bytes(range(256)) * 40, "layers.json": b"[]\n", "plan.yaml": b"plan: 1\n"}
AGAIN = {**FILES, "engine.onnx": bytes(range(255, -1, -1)) * 40}
KEY = Store.key({"stage": "fold", "inputs": [1, 2]})


def manifest(version: str) -> bundles.Manifest:
    tensor = TensorSpec("x", "float32", ("batch", 1, 28, 28))
    return bundles.Manifest(
        name="lenet5",
        version=version,
        target="cpu",
        passed=True,
        engine=bundles.EngineEntry("onnxruntime", "engine.onnx", "onnxruntime 1.31", {}, (1, 8, 8)),
        signature=Signature((tensor,), (tensor,)),
    )


def publish(root: Path, version: str = NEW, files: dict[str, bytes] = FILES) -> None:
    bundles.publish(root, manifest(version), files)


def publish_naively(root: Path) -> None:
    """What one would write first: straight to the final place, and the link moved by hand."""
    home = root / "lenet5" / "cpu"
    (home / NEW).mkdir(exist_ok=True)
    for file in sorted((root / "made" / "lenet5" / "cpu" / NEW).iterdir()):
        handle = os.open(home / NEW / file.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(handle, file.read_bytes())
        os.close(handle)
    (home / "latest").unlink(missing_ok=True)
    (home / "latest").symlink_to(NEW)


def before_naive(root: Path) -> None:
    publish(root, OLD)
    publish(root / "made")


def damage(root: Path) -> None:
    publish(root)
    (root / "lenet5" / "cpu" / NEW / "plan.yaml").write_bytes(b"plan: 2\n")


def bundles_are_whole(root: Path, *, latest: bool) -> list[str]:
    """Every visible bundle verifies, and so does `latest`, which must exist if one came before."""
    home, problems = root / "lenet5" / "cpu", []
    visible = [path for path in home.glob("[!.]*") if path.name != "latest"]
    if (home / "latest").is_symlink():
        visible.append(home / "latest")
    elif latest:
        problems.append("latest is gone")
    for path in visible:
        problems += refusal(path)
    return problems


def refusal(path: Path) -> list[str]:
    try:
        bundles.verify(path)
    except (IntegrityError, RecipeError) as error:
        return [str(error)]
    return []


def published(root: Path, files: dict[str, bytes], version: str = NEW) -> list[str]:
    home = root / "lenet5" / "cpu"
    found = bundles.verify(home / "latest")
    problems = bundles_are_whole(root, latest=True)
    if found.manifest.version != version or found.files != files:
        problems.append("not the same bundle as without interruption")
    if left := [path.name for path in home.glob(".tmp-*")]:
        problems.append(f"left behind: {left}")
    return problems


def entry_is_whole(root: Path, *, present: bool) -> list[str]:
    warnings: list[str] = []
    found = Store(root, warnings.append).get(KEY)
    if found not in ([FILES] if present else [None, FILES]):
        warnings.append(f"another entry: {found}")
    return warnings


def nothing(root: Path) -> None:
    pass


SCENARIOS = {
    "first": faults.Scenario(
        nothing,
        publish,
        partial(bundles_are_whole, latest=False),
        partial(published, files=FILES),
    ),
    "next": faults.Scenario(
        partial(publish, version=OLD),
        publish,
        partial(bundles_are_whole, latest=True),
        partial(published, files=FILES),
    ),
    "again": faults.Scenario(
        publish,
        partial(publish, version=AFRESH, files=AGAIN),
        partial(bundles_are_whole, latest=True),
        partial(published, version=AFRESH, files=AGAIN),
    ),
    "damaged": faults.Scenario(damage, publish, lambda root: [], partial(published, files=FILES)),
    "naive": faults.Scenario(
        before_naive,
        publish_naively,
        partial(bundles_are_whole, latest=True),
        lambda root: [],
    ),
    "store": faults.Scenario(
        nothing,
        lambda root: Store(root).put(KEY, FILES),
        partial(entry_is_whole, present=False),
        partial(entry_is_whole, present=True),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("fault")
    parser.add_argument("root", type=Path)
    parser.add_argument("--lasting", action="store_true")
    parser.add_argument("--kills", type=int, default=0)
    given = parser.parse_args()
    scenario = SCENARIOS[given.scenario]
    if given.fault == faults.KILL_ANYTIME:
        found = faults.kill_anytime(scenario, given.root, given.kills, seed=7)
    else:
        found = faults.sweep(scenario, given.root, given.fault, lasting=given.lasting)
    print(json.dumps(vars(found)))  # noqa: T201 - the answer


main()
