"""The whole pipeline on real digits, from an ONNX file: no PyTorch is needed for any of this."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from digits_net import digits, digits_net

from rtc.compiler import CompileResult, compile, load  # noqa: A004 - the verb of this tool
from rtc.compiler.bundle import bundles
from rtc.compiler.candidates.threads import Pace
from rtc.compiler.core.errors import (
    BuilderError,
    DataError,
    IntegrityError,
    MachineError,
    RecipeError,
    RtcError,
)
from rtc.compiler.core.evidence import Estimated, Measured, Pending
from rtc.compiler.core.precision import PrecisionPlan
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.target import Backend
from rtc.compiler.lowering.job import Job
from rtc.compiler.storage.store import Store

SEARCH = "precision: {search: {seconds: 2}}"
OFFER = "precision: {offer: [fp32]}"
RECIPE = f"""
recipe: 1
name: digits
version: 1.2.3
seed: 7
source: {{onnx: digits.onnx}}
data:
  dataset: rtc.recipes.datasets.mnist:mnist5k
  split: {{train: 0.4, calibration: 0.1, test: 0.2}}
passes: [fold-constants, eliminate-identity, fold-batchnorm, eliminate-dead-code]
{SEARCH}
batch: 16
targets: [cpu]
measure: {{seconds: 0.5}}
"""


class Watcher(Nobody):
    """Keeps which stages ran, and which came from the store."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.cached: list[str] = []
        self.why: dict[str, Sequence[str]] = {}

    def redone(self, stage: str, why: Sequence[str]) -> None:
        self.why[stage] = why

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        (self.cached if cached else self.ran).append(stage)


@pytest.fixture(scope="module")
def model() -> bytes:
    return digits_net(digits().train)


@pytest.fixture
def recipe(tmp_path: Path, model: bytes) -> Callable[..., Path]:
    """Writes the recipe beside its model, with keys changed."""
    (tmp_path / "digits.onnx").write_bytes(model)

    def write(**changes: object) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(RECIPE), **changes}))
        return path

    return write


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory, model: bytes) -> Path:
    """A folder with the recipe, its store, and bundles for a CPU and an RTX 4060 Ti."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "digits.onnx").write_bytes(model)
    (folder / "recipe.yaml").write_text(RECIPE)
    results = compile(
        folder / "recipe.yaml",
        targets=["cpu", "rtx4060ti"],
        out=folder / "build",
        store=Store(folder / "store"),
    )
    assert all(result.passed and not result.reused for result in results)
    return folder


def report_of(compiled: Path, target: str):
    from rtc.compiler.publish.bundle_content import report_of

    return report_of(bundles.verify(compiled / "build/digits" / target))


def test_a_bundle_holds_all_that_proves_it(compiled: Path) -> None:
    verified = bundles.verify(compiled / "build/digits/cpu")
    others = {other.candidate for other in report_of(compiled, "cpu").others}
    assert others
    assert set(verified.files) == {
        *(f"plan-{name.replace(' ', '-')}.yaml" for name in others),
        "calibration.json", "engine.onnx", "float.onnx", "graph.onnx", "layers.json", "plan.yaml",
        "probe.npz", "profile.yaml",
        "recipe.yaml", "report.html", "report.json",
    }  # fmt: skip
    plan = PrecisionPlan.from_dict(yaml.safe_load(verified.files["plan.yaml"]))
    assert next(iter(plan.layers)) == "conv"  # in the order of the graph
    assert verified.manifest.version.startswith("1.2.3+")
    assert verified.manifest.passed
    assert (compiled / "build/digits/cpu/latest").is_symlink()


def test_the_cpu_engine_is_measured_on_the_shipped_bytes(compiled: Path) -> None:
    report = report_of(compiled, "cpu")
    shipped = report.accuracy_of("shipped engine")
    assert isinstance(shipped.top1, Measured)
    assert shipped.top1.samples == 1000
    assert shipped.top1.value > 0.9
    cases = {(row.mode, row.batch) for row in report.latency if row.subject == report.shipped}
    assert cases == {(m, b) for m in ("forward", "end-to-end") for b in (1, 16)}
    assert all(isinstance(row.evidence, Measured) for row in report.latency)
    variants = {(row.backend, row.variant) for row in report.candidates}
    assert {("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "mix")} <= variants
    assert [row.state for row in report.candidates].count("shipped") == 1


def test_the_fastest_candidate_that_is_allowed_ships(compiled: Path) -> None:
    report = report_of(compiled, "cpu")
    allowed = [row for row in report.candidates if row.state in {"shipped", "slower"}]
    assert allowed[0].name == report.shipped  # they stand in order, the fastest first
    assert len(allowed) >= 4


def test_every_stage_leaves_a_certificate_that_passed(compiled: Path) -> None:
    report = report_of(compiled, "cpu")
    stages = [row.stage for row in report.certificates]
    assert stages[:4] == ["fold-constants", "eliminate-identity", "fold-batchnorm",
                          "eliminate-dead-code"]  # fmt: skip
    assert "insert-qdq (onnxruntime int8)" in stages
    assert all(row.passed for row in report.certificates)
    unseen = [row.stage for row in report.certificates if not row.samples]
    assert set(unseen) <= {"cast-precision (openvino half)"}  # there the engine itself is judged


def test_a_device_that_is_not_here_is_estimated_and_pending(compiled: Path) -> None:
    report = report_of(compiled, "rtx4060ti")
    shipped = report.accuracy_of("shipped engine")
    assert isinstance(shipped.top1, Measured)
    assert "graph in" in shipped.runs_on
    kinds = {type(row.evidence) for row in report.latency}
    assert kinds == {Estimated, Pending}
    assert all(
        isinstance(row.evidence, Pending) for row in report.latency if row.mode == "end-to-end"
    )
    engine = bundles.verify(compiled / "build/digits/rtx4060ti").manifest.engine
    assert engine.binding["compute_capability"] == "8.9"


def test_the_loaded_engine_gives_what_the_report_says(compiled: Path) -> None:
    test = digits().test
    with load(compiled / "build/digits/cpu/latest") as engine:
        logits = np.concatenate([engine(x) for x in test.batches(16)])
        assert np.array_equal(engine.preprocess(test.raw[:3]), test.inputs(0, 3))
    top1 = float((logits.argmax(axis=1) == test.labels).mean())
    assert top1 == pytest.approx(
        report_of(compiled, "cpu").accuracy_of("shipped engine").top1.value
    )


def test_a_second_compile_finds_the_bundle(compiled: Path) -> None:
    (result,) = compile(
        compiled / "recipe.yaml", out=compiled / "build", store=Store(compiled / "store")
    )
    assert result.reused
    assert result.report == report_of(compiled, "cpu")


def test_without_the_bundle_everything_comes_from_the_store(compiled: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    (result,) = compile(
        compiled / "recipe.yaml", out=tmp_path, store=Store(compiled / "store"), listener=watcher
    )
    assert watcher.ran == ["bundle"]
    first = bundles.verify(compiled / "build/digits/cpu")
    assert result.bundle.name == first.path.name
    assert bundles.verify(result.bundle).files == first.files


def test_a_tampered_bundle_does_not_load_and_is_made_again(compiled: Path, tmp_path: Path) -> None:
    (result,) = compile(compiled / "recipe.yaml", out=tmp_path, store=Store(compiled / "store"))
    engine = result.bundle / "engine.onnx"
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"engine\.onnx"):
        load(result.bundle)
    (again,) = compile(compiled / "recipe.yaml", out=tmp_path, store=Store(compiled / "store"))
    assert not again.reused
    assert (again.bundle / "engine.onnx").read_bytes() == whole


def test_a_failed_gate_keeps_the_bundle_and_never_becomes_latest(
    recipe: Callable[..., Path], compiled: Path, tmp_path: Path
) -> None:
    path = recipe(gates={"fps": 1e12}, precision={"offer": ["fp32"]})
    (result,) = compile(path, out=tmp_path / "build", store=Store(compiled / "store"))
    assert not result.passed
    assert "fps" in result.report.headline
    assert not bundles.verify(result.bundle).manifest.passed
    assert not (tmp_path / "build/digits/cpu/latest").exists()


def test_an_estimate_does_not_pass_a_latency_gate(
    recipe: Callable[..., Path], compiled: Path, tmp_path: Path
) -> None:
    path = recipe(gates={"latency_ms": 1e6}, targets=["rtx4060ti"], precision={"offer": ["half"]})
    (result,) = compile(path, out=tmp_path / "build", store=Store(compiled / "store"))
    (gate,) = [row for row in result.report.gates if row.name == "latency_ms"]
    assert gate.passed is None
    assert result.passed


def test_pins_hold_in_every_candidate(
    recipe: Callable[..., Path], compiled: Path, tmp_path: Path
) -> None:
    path = recipe(precision={"offer": ["int8"], "pin": {"conv": "fp32"}})
    (result,) = compile(path, out=tmp_path / "build", store=Store(compiled / "store"))
    planned = {row.name: (row.planned, row.pinned) for row in result.report.layers}
    assert planned["conv"] == ("fp32", True)
    assert planned["fc"][0] == "int8"


def test_a_fixed_batch_is_freed(tmp_path: Path, compiled: Path) -> None:
    (tmp_path / "digits.onnx").write_bytes(digits_net(digits().train, batch=1))
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.replace("batch: 16", "batch: 4").replace(SEARCH, OFFER)
    )
    (result,) = compile(
        tmp_path / "recipe.yaml", out=tmp_path / "build", store=Store(compiled / "store")
    )
    with load(result.bundle) as engine:
        assert engine.input.shape[0] == "batch"
        assert engine(digits().test.inputs(0, 3)).shape == (3, 10)


def test_an_onnx_recipe_compiles_where_torch_cannot_be_imported(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe(precision={"offer": ["fp32", "int8"]})
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from rtc.compiler.cli.main import main\n"
        f"sys.exit(main(['compile', {str(path)!r}, '--out', {str(tmp_path / 'b')!r}, '--json']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"RTC_CACHE": str(tmp_path / "cache"), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_two_devices_of_one_architecture_have_figures_of_their_own(
    recipe: Callable[..., Path], compiled: Path, tmp_path: Path
) -> None:
    path = recipe(precision={"offer": ["half"]}, targets=["rtx4060ti", "rtx4090"])
    slow, fast = compile(path, out=tmp_path / "build", store=Store(compiled / "store"))
    for result in (slow, fast):
        models = [r.evidence for r in result.report.latency if isinstance(r.evidence, Estimated)]
        assert all(f"roofline of {result.target} " in each.model for each in models)
        waits = [r.evidence for r in result.report.latency if isinstance(r.evidence, Pending)]
        assert {each.waits_for for each in waits} == {result.target}
    estimate = [
        next(r.evidence.value for r in result.report.latency if isinstance(r.evidence, Estimated))
        for result in (slow, fast)
    ]
    assert estimate[0] > estimate[1]


NPZ = {
    "source": {"factory": "net_beside:make"},
    "data": {"dataset": "data_beside:make", "options": {"scale": 1.0}},
    "passes": ["export-onnx"],
    "precision": {"offer": ["fp32"]},
    "measure": {"seconds": 0.1},
}
NET = """
from torch import nn
def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
"""
DATA = """
import numpy as np
from rtc.compiler.core.data import Dataset, Preprocess
SCALE = 1.0
def make(scale):
    def load():
        x = np.random.default_rng(0).standard_normal((90, 1, 2, 2)).astype(np.float32)
        return x * np.float32(SCALE * scale), np.arange(90) % 3
    return Dataset("mine", 3, "sha256:always-the-same", Preprocess(), load)
"""


def ranges(result: CompileResult) -> Any:
    return json.loads(bundles.verify(result.bundle).files["calibration.json"])


def test_code_beside_a_recipe_counts_and_never_another_recipes(tmp_path: Path) -> None:
    def project(name: str, net: str = NET, data: str = DATA, **changes: object) -> CompileResult:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "net_beside.py").write_text(net)
        (folder / "data_beside.py").write_text(data)
        document = {**yaml.safe_load(RECIPE.replace(SEARCH, OFFER)), **NPZ, **changes}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
        store = Store(tmp_path / "store")
        (result,) = compile(folder / "recipe.yaml", out=tmp_path / f"build-{name}", store=store)
        return result

    first = project("one")
    scaled = project("two", data=DATA.replace("SCALE = 1.0", "SCALE = 3.0"))
    assert ranges(scaled) != ranges(first)
    # What a data set says of itself need not follow its samples: what was read names the bundle.
    assert scaled.bundle.name != first.bundle.name
    other = project("three", net=NET.replace("nn.ReLU()", "nn.Tanh()"))
    ops = [row.op for row in other.report.layers]
    assert "Tanh" in ops
    assert "Relu" not in ops


DIGITS = """
import numpy as np
from rtc.compiler.core.data import Dataset, Preprocess
from helper_beside import CLASSES
def make():
    def load():
        x = np.random.default_rng(0).integers(0, 256, (90, 28, 28)).astype(np.uint8)
        return np.minimum(x, int(np.loadtxt({table!r}))), np.arange(90) % CLASSES
    preprocess = Preprocess(1 / 255, layout="hw")
    return Dataset("mine", CLASSES, "sha256:always-the-same", preprocess, load)
"""


def test_a_name_holds_what_was_read_and_nothing_else(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    table = tmp_path / "brightest.txt"
    (tmp_path / "data_beside.py").write_text(DIGITS.format(table=str(table)))
    (tmp_path / "helper_beside.py").write_text("CLASSES = 3")
    (tmp_path / "ort.yaml").write_text(
        "{name: ort, vendor: any, kind: cpu, backends: [onnxruntime], notes: '', source: here}"
    )
    path = recipe(
        data={"dataset": "data_beside:make"},
        precision={"offer": ["fp32"]},
        targets=["ort.yaml"],
        measure={"seconds": 0.1, "threads": 1},
        gates={"chance": None},  # the labels are no digits
    )

    def run(fresh: bool = False) -> tuple[CompileResult, Watcher]:
        watcher, store = Watcher(), Store(tmp_path / "store")
        (result,) = compile(
            path, out=tmp_path / "build", store=store, listener=watcher, fresh=fresh
        )
        return result, watcher

    table.write_text("255")
    first, watcher = run()
    assert watcher.cached == []
    held = bundles.verify(first.bundle)
    (tmp_path / "notes.py").write_text("nothing imports it")
    assert run()[0].reused

    table.write_text("51")
    darker, watcher = run()
    assert darker.bundle.name != first.bundle.name
    assert ranges(darker)["input"]["seen_high"] == pytest.approx(0.2)
    assert watcher.why["observe"] == ("data changed",)

    table.write_text("255")
    fresh, watcher = run(fresh=True)
    assert fresh.bundle.name == f"{first.bundle.name}.2"
    assert set(watcher.why.values()) == {("--fresh",)}
    assert fresh.report.version == bundles.verify(fresh.bundle).manifest.version
    assert bundles.verify(first.bundle) == held
    found, _ = run()
    assert (found.reused, found.bundle) == (True, fresh.bundle)

    (tmp_path / "helper_beside.py").write_text("CLASSES = 4")
    relabelled, watcher = run()
    assert relabelled.bundle.name.partition(".2")[0] != first.bundle.name
    cause = ("code changed: helper_beside.py", "data changed")
    assert set(watcher.why.values()) == {cause}

    other = path.rename(tmp_path / "other.yaml")  # its name is the same, and it is another recipe
    path = Path(other)
    (tmp_path / "helper_beside.py").write_text("CLASSES = 5")
    _, watcher = run()
    assert watcher.why == {}


def test_what_changes_while_it_is_compiled_is_not_published(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    class Meddler(Nobody):
        def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
            if stage == "measure":
                with (tmp_path / "digits.onnx").open("ab") as model:
                    model.write(b"\x32\x00")  # an empty model_version

    path = recipe(precision={"offer": ["fp32"]})
    with pytest.raises(RecipeError, match=r"file changed: digits\.onnx") as error:
        compile(path, out=tmp_path / "b", store=Store(tmp_path / "store"), listener=Meddler())
    assert error.value.id == "changed-meanwhile"
    assert not list((tmp_path / "b").rglob("manifest.json"))


@pytest.mark.parametrize(
    ("changes", "kind", "line"),
    [
        ({"data": {**NPZ["data"], "options": {"scale": 1.0, "sale": 1}}}, RecipeError, "sale"),
        ({"source": {"factory": "net_beside:broken"}}, RecipeError, "ZeroDivisionError"),
        ({"source": {"factory": "net_beside:mak"}}, RecipeError, 'did you mean "make"'),
        ({"source": {"factory": "net_besid:make"}}, RecipeError, "no module named net_besid"),
        ({"source": {"factory": "net_besid:make"}}, RecipeError, 'did you mean "net_beside"'),
    ],
)
def test_a_fault_in_the_users_code_is_the_users(
    tmp_path: Path, changes: dict[str, object], kind: type[RtcError], line: str
) -> None:
    (tmp_path / "net_beside.py").write_text(f"{NET}\ndef broken():\n    1 / 0\n")
    (tmp_path / "data_beside.py").write_text(DATA)
    document = {**yaml.safe_load(RECIPE), **NPZ, **changes}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(kind, match=line):
        compile(tmp_path / "recipe.yaml", out=tmp_path / "b", store=Store(tmp_path / "store"))


def test_samples_that_do_not_fit_the_model_are_found_before_the_work(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    x = np.zeros((90, 3, 32, 32), np.uint8)
    x[:, 0, 0, 0] = np.arange(90)
    np.savez(tmp_path / "samples.npz", x=x, y=np.arange(90) % 3)
    path = recipe(data={"npz": "samples.npz", "classes": 3})
    with pytest.raises(DataError, match="3 × 32 × 32, expected 1 × 28 × 28"):
        compile(path, out=tmp_path / "b", store=Store(tmp_path / "store"))


def test_samples_without_labels_are_found_before_the_work(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    x = np.random.default_rng(0).integers(0, 255, (90, 1, 28, 28)).astype(np.uint8)
    np.savez(tmp_path / "samples.npz", x=x)
    path = recipe(data={"npz": "samples.npz", "classes": 10})
    with pytest.raises(DataError):
        compile(path, out=tmp_path / "b", store=Store(tmp_path / "store"))


def test_training_has_labels_where_calibration_comes_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "net_beside.py").write_text(NET)
    (tmp_path / "data_beside.py").write_text(DATA)
    (tmp_path / "line").mkdir()
    samples = np.random.default_rng(1).standard_normal((20, 1, 2, 2)).astype(np.float32)
    np.save(tmp_path / "line" / "seen.npy", 7 * samples)
    passes = [{"train": {"epochs": 1}}, "export-onnx"]
    document = {**yaml.safe_load(RECIPE), **NPZ, "passes": passes, "calibration": {"path": "line"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    (result,) = compile(
        tmp_path / "recipe.yaml", out=tmp_path / "build", store=Store(tmp_path / "store")
    )
    assert result.report.curves[0].accuracy
    assert ranges(result)["input"]["seen_high"] == pytest.approx(7 * samples.max())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [("openvino", 1, ""), ("onnxruntime", 1, "far behind")]),
        (
            {
                "precision": {"search": {"objective": "accuracy"}},
                "gates": {"latency_ms": 1.0},
            },
            [("openvino", 2, ""), ("onnxruntime", 2, "")],
        ),
    ],
    ids=["for latency", "for accuracy"],
)
def test_the_runtimes_that_are_searched_share_the_time(
    recipe: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    expected: list[tuple[str, int, str]],
) -> None:
    asked = []

    def candidates(job: Job, backend: Backend, threads: object, *, unsearched: str) -> tuple:
        asked.append((backend.name, job.sharers, unsearched))
        return ()

    told = {"openvino": Pace(), "onnxruntime": Pace(behind="far behind")}
    monkeypatch.setattr("rtc.compiler.pipeline.paces", lambda *_: told)
    monkeypatch.setattr("rtc.compiler.pipeline.candidates", candidates)
    with pytest.raises(BuilderError, match="no candidate"):
        compile(recipe(**changes), out=tmp_path / "out", store=Store(tmp_path / "store"))
    assert asked == expected


def test_more_threads_than_the_machine_has_are_refused_before_any_work(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe(measure={"threads": 1024})
    with pytest.raises(MachineError, match=r"measure\.threads"):
        compile(path, out=tmp_path / "out", store=Store(tmp_path / "store"))
    assert not (tmp_path / "out").exists()
