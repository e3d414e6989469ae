"""rtc against its peers: the same models, samples, splits and threads, in one run.

Needs the `bench` extra. Each model is trained once from its recipe (its weights are kept in
`--cache`). Then every peer searches for its engine in a process of its own, on the same calibration
samples; all engines classify the same test samples, and are timed at batch 1 in turns. ResNet-50
has random weights and is there for speed alone.

    python tests/benchmarks/peers.py [--models lenet5 resnet20 …] [--peers rtc "nncf mixed" …]
        [--samples 300] [--seconds 20] [--threads N] [--cache DIR] [--json FILE]

Everyone may use all cores, and is timed with one thread as well: the faster counts. With fewer
`--threads` than cores everyone uses just so many. A model may also be a recipe's path. Exits with 1
where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from contest import table
from contest.entries import PEERS, Peer, Setting
from contest.models import ENTRANTS, Entrant, compile_recipe, entrant, trained
from contest.running import Contest, Limits, Row
from contest.verdict import Verdict, verdicts
from rich.console import Console

from rtc.compiler.cli.progress import TerminalListener
from rtc.compiler.frontend.samples import splits_of
from rtc.compiler.measure.provenance import hardware, physical_cores, software
from rtc.compiler.recipe.schema import load_recipe
from rtc.compiler.storage.store import Store

_WIDTH = 150  # columns of the tables in a file


def run(of: Entrant, peers: Sequence[Peer], given: argparse.Namespace) -> list[Row]:
    """One model against all peers."""
    store = Store(given.cache) if given.cache else Store.default()
    with TerminalListener() as listener:
        what = trained(of, store, listener)
        with tempfile.TemporaryDirectory() as folder:
            recipe = compile_recipe(
                of, what, Path(folder), samples=given.samples, threads=given.threads
            )
            setting = Setting(of, what, recipe, given.threads)
            taking_part = [peer for peer in peers if peer.speed_alone or of.drop is not None]
            data = splits_of(load_recipe(recipe))
            choose = given.threads == physical_cores()
            contest = Contest(setting, taking_part, data, Limits(), listener, choose)
            return contest.rows(given.seconds)


def written(rows: Sequence[Row], found: Sequence[Verdict], given: argparse.Namespace) -> str:
    """Everything as JSON: the options, the machine, the rows and the verdicts."""
    options = {key: getattr(given, key) for key in ("samples", "seconds", "threads")}
    content = {
        "options": options,
        "hardware": hardware(),
        "software": software(),
        "rows": [asdict(row) for row in rows],
        "verdicts": [asdict(each) for each in found],
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def arguments() -> argparse.Namespace:
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(ENTRANTS), metavar="NAME")
    parser.add_argument("--peers", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--samples", type=int, default=300, help="calibration samples")
    parser.add_argument("--seconds", type=float, default=20, help="of timing, for each model")
    parser.add_argument(
        "--threads", type=int, default=physical_cores(), help="that everyone may use"
    )
    parser.add_argument("--cache", type=Path, help="where trained models are kept")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    entrants = [entrant(name) for name in given.models]
    peers = [peer for peer in PEERS if peer.name in given.peers]
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    rows = list[Row]()
    for each in entrants:
        rows += run(each, peers, given)
        console.print(table.results(each.name, [row for row in rows if row.model == each.name]))
    found = list(verdicts(entrants, rows))
    console.print(table.summary(found))
    if given.json:
        given.json.write_text(written(rows, found, given), encoding="utf-8")
    return 0 if all(each.holds for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
