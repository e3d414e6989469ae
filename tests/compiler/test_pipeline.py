"""The whole pipeline on real digits, from an ONNX file: no PyTorch is needed for any of this."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from compiled_recipes import OFFER, RECIPE, SEARCH, Watcher
from digits_net import digits, digits_net

from rtc.compiler import compile, load  # noqa: A004 - the verb of this tool
from rtc.compiler.bundle import bundles
from rtc.compiler.candidates.threads import Pace
from rtc.compiler.core.errors import (
    BuilderError,
    IntegrityError,
    MachineError,
)
from rtc.compiler.core.evidence import Estimated, Measured, Pending
from rtc.compiler.core.precision import PrecisionPlan
from rtc.compiler.core.target import Backend
from rtc.compiler.lowering.job import Job
from rtc.compiler.storage.store import Store


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
