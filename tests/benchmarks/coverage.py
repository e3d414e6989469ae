"""What of torchvision and timm rtc compiles, and whether it is right.

Every architecture (random weights, settled BatchNorm), exported by PyTorch's dynamo and TorchScript
exporters at several opsets, on every runtime in every precision. A cell is right where it was
built, its graph computes what PyTorch does (up to its precision) and its engine computes its graph;
RTX engines run on RTX alone, so there the graph is held, and the contract read. Needs the `bench`
extra.

    python tests/benchmarks/coverage.py [--models resnet18 …] [--runtimes onnxruntime …]
        [--precisions int8 …] [--exports dynamo:18 torchscript:13 …] [--peers] [--json FILE]

Without `--exports` each architecture is exported once, and the exports go round among them. Exits
with 1 where less than 98 % of the cells are right, or any is wrong without a word.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from zoo.architectures import ARCHITECTURES
from zoo.cells import PRECISIONS, RUNTIMES, Cell, Export, subject

LEAST = 0.98
EXPORTS = tuple(
    Export(*each)
    for each in (
        ("dynamo", 20),
        ("torchscript", 17),
        ("dynamo", 18),
        ("torchscript", 13),
        ("dynamo", 19),
        ("torchscript", 11),
        ("torchscript", 15),
        ("torchscript", 20),
        ("torchscript", 14),
    )
)
_ATTENTION = 14  # the first opset that TorchScript's exporter writes attention in
_DEADLINE_S = 1800
_SHORT = {"onnxruntime": "ORT", "openvino": "OpenVINO", "tensorrt_rtx": "RTX"}
_MARKS = {"right": "✓", "left out": "–", "lost": "lost", "wrong": "WRONG"}


def run(model: str, export: Export, given: argparse.Namespace) -> list[Cell]:
    """All cells of one exported model, in a process of its own: a crash is a row as well."""
    command = [sys.executable, __file__, "--models", model, "--child"]
    command += ["--exports", f"{export.exporter}:{export.opset}", "--runtimes", *given.runtimes]
    command += ["--precisions", *given.precisions, *(["--peers"] if given.peers else [])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )
        said, end = (
            done.stdout,
            done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"],
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else ""
        end = [f"not done after {_DEADLINE_S} s"]
    cells = [Cell(**json.loads(line)) for line in said.splitlines() if line.startswith("{")]
    reached = {(cell.runtime, cell.precision) for cell in cells}
    kind = ARCHITECTURES[model].kind
    return cells + [
        Cell(model, kind, export.exporter, export.opset, runtime, precision, "lost", end[0])
        for runtime in given.runtimes
        for precision in given.precisions
        if (runtime, precision) not in reached
    ]


def child(given: argparse.Namespace) -> None:
    """One model's cells to standard output, a line of JSON each."""
    with tempfile.TemporaryDirectory() as folder:
        what = subject(given.models[0], given.exports[0], Path(folder))
        for cell in what.cells(given.runtimes, given.precisions, with_peers=given.peers):
            print(json.dumps(asdict(cell)), flush=True)


def exports(given: argparse.Namespace) -> Iterator[tuple[str, Export]]:
    for model in given.models:
        for export in given.exports or (_usual(model),):
            yield model, export


def _usual(model: str) -> Export:
    """An export of its own for each architecture, the same in every run."""
    usable = [each for each in EXPORTS if each.opset >= _ATTENTION or not _attends(model)]
    return usable[list(ARCHITECTURES).index(model) % len(usable)]


def _attends(model: str) -> bool:
    return ARCHITECTURES[model].kind in ("transformer", "hybrid")


def table(cells: Sequence[Cell], given: argparse.Namespace) -> Table:
    """A line for each exported model: how often each right cell's class is PyTorch's.

    In brackets, layers that are not as planned; "<" where a peer agrees more, beyond chance.
    """
    shown = Table(box=box.SIMPLE_HEAD)
    for name in ("model", "export"):
        shown.add_column(name, no_wrap=True)
    columns = [(r, p) for r in given.runtimes for p in given.precisions]
    for runtime, precision in columns:
        shown.add_column(f"{_SHORT[runtime]}\n{precision}", justify="right", no_wrap=True)
    for model, export in exports(given):
        row = [model, f"{export.exporter} {export.opset}"]
        for runtime, precision in columns:
            found = next(
                c
                for c in cells
                if (c.model, c.exporter, c.opset, c.runtime, c.precision)
                == (model, export.exporter, export.opset, runtime, precision)
            )
            row.append(_mark(found))
        shown.add_row(*row)
    return shown


def _mark(cell: Cell) -> str:
    if cell.outcome != "right":
        return _MARKS[cell.outcome]
    agreement = f"{100 * (cell.agreement or 0):.0f} %"
    contract = f" ({cell.changed + cell.unknown})" if cell.changed or cell.unknown else ""
    return f"{agreement}{contract}{' <' if cell.behind else ''}"


def summary(cells: Sequence[Cell]) -> tuple[str, bool]:
    counted = [cell for cell in cells if cell.outcome != "left out"]
    right = sum(cell.outcome == "right" for cell in counted)
    wrong = sum(cell.outcome == "wrong" for cell in counted)
    changed = sum(cell.changed + cell.unknown for cell in counted)
    layers = sum(cell.layers for cell in counted)
    share = right / max(1, len(counted))
    text = (
        f"{right} of {len(counted)} cells right ({100 * share:.1f} %), {wrong} wrong, "
        f"{len(counted) - right - wrong} lost, {len(cells) - len(counted)} left out; "
        f"{changed} of {layers} layers not as planned"
    )
    return text, share >= LEAST and not wrong


def _export(text: str) -> Export:
    exporter, _, opset = text.partition(":")
    return Export(exporter, int(opset))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = list(ARCHITECTURES)
    parser.add_argument("--models", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=list(RUNTIMES))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--exports", nargs="+", type=_export, metavar="EXPORTER:OPSET")
    parser.add_argument("--peers", action="store_true", help="quantize_static and NNCF as well")
    parser.add_argument("--json", type=Path, help="append every cell to this file, a line each")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.child:
        child(given)
        return 0
    console = Console()
    if not console.is_terminal:
        console.width = 200
    cells: list[Cell] = []
    for model, export in exports(given):
        found = run(model, export, given)
        cells += found
        if given.json:
            with given.json.open("a", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(asdict(cell))}\n" for cell in found)
        console.print(f"{model}, {export.exporter} {export.opset}: {summary(found)[0]}")
        for cell in found:
            if cell.outcome in ("lost", "wrong"):
                said = f"  {cell.runtime} {cell.precision}: {cell.outcome}: {cell.reason}"
                console.print(said, markup=False, highlight=False)
    console.print(table(cells, given))
    text, holds = summary(cells)
    console.print(text)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
