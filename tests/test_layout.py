"""Where things lie: a test file by the name of each module, short files, one name for one class."""

from __future__ import annotations

import ast
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("compiler", "passes", "calibration", "targets")
MOST_LINES = 400
ELSEWHERE = {
    "calibration/sensitivity/alternative.py": "calibration/sensitivity/test_exact.py",
    "calibration/sensitivity/assembly.py": "calibration/sensitivity/test_gradient.py",
    "calibration/sensitivity/rules/writing.py": "calibration/sensitivity/test_gradient.py",
    "compiler/building/builder.py": "compiler/building/test_contract_builds.py",
    "compiler/building/engines.py": "compiler/candidates/test_offer.py",
    "compiler/cli/culprits.py": "compiler/diagnose/test_culprits.py",
    "compiler/cli/options.py": "compiler/cli/test_precision.py",
    "compiler/cli/starter.py": "compiler/cli/test_recipes.py",
    "compiler/core/arrays.py": "compiler/core/test_data.py",
    "compiler/core/exact_attention.py": "compiler/core/test_exact_products.py",
    "compiler/core/target.py": "targets/test_loader.py",
    "compiler/diagnose/layer_view.py": "compiler/cli/test_precision.py",
    "compiler/diagnose/plan_difference.py": "compiler/cli/test_plans.py",
    "compiler/diagnose/quantity.py": "compiler/diagnose/test_metric.py",
    "compiler/diagnose/remeasure.py": "compiler/cli/test_bundles.py",
    "compiler/diagnose/suspects.py": "compiler/diagnose/test_culprits.py",
    "compiler/diagnose/tables.py": "compiler/cli/test_precision.py",
    "compiler/diagnose/what_if.py": "compiler/cli/test_plans.py",
    "compiler/frontend/recipe_check.py": "compiler/cli/test_recipes.py",
    "compiler/lowering/job.py": "compiler/candidates/test_offer.py",
    "compiler/lowering/plan_writer.py": "compiler/building/test_contract_builds.py",
    "compiler/measure/worker.py": "compiler/measure/test_latency.py",
    "compiler/publish/bundle_content.py": "compiler/test_pipeline.py",
    "compiler/recipe/pass_list.py": "compiler/recipe/test_schema.py",
    "compiler/recipe/sections.py": "compiler/recipe/test_schema.py",
    "compiler/report/facts.py": "compiler/report/test_terminal.py",
    "compiler/report/search_charts.py": "compiler/report/test_html.py",
    "compiler/search/evidence.py": "compiler/search/test_mix.py",
    "compiler/search/rows.py": "compiler/search/test_mix.py",
    "compiler/search/trial.py": "compiler/search/test_mix.py",
    "compiler/select/measuring.py": "compiler/select/test_choice.py",
    "passes/graph/folding.py": "passes/graph/test_fold_constants.py",
    "passes/quantise/one_add.py": "passes/quantise/test_residual_ledger.py",
    "passes/quantise/one_layer.py": "passes/quantise/test_assign_precision.py",
    "passes/quantise/placement.py": "passes/quantise/test_insert_qdq.py",
    "passes/quantise/precision_policy.py": "passes/quantise/test_assign_precision.py",
    "passes/quantise/qdq.py": "passes/quantise/test_insert_qdq.py",
    "passes/repair/quantising_repair.py": "passes/repair/test_correct_bias.py",
    "passes/torch/distillation.py": "passes/torch/test_distill.py",
    "targets/backends/cuda_runner.py": "targets/backends/test_tensorrt_rtx.py",
    "targets/backends/openvino_layers.py": "targets/backends/test_openvino.py",
}
"""Modules whose tests lie under another name: what they do shows in a command or an engine."""


def modules(root: Path) -> list[Path]:
    files = (path.relative_to(root) for room in ROOMS for path in (root / room).rglob("*.py"))
    return sorted(path for path in files if path.name != "__init__.py")


def untested(root: Path) -> list[str]:
    """Modules without a test file by their name, or by that which is given above."""
    named = {path: path.parent / f"test_{path.name}" for path in modules(root)}
    named |= {Path(module): Path(test) for module, test in ELSEWHERE.items()}
    return [str(module) for module, test in named.items() if not (root / "tests" / test).is_file()]


def long_files(root: Path) -> list[str]:
    tests = (path.relative_to(root) for path in (root / "tests").rglob("test_*.py"))
    texts = {path: (root / path).read_text(encoding="utf-8") for path in (*modules(root), *tests)}
    count = {str(path): len(text.splitlines()) for path, text in texts.items()}
    return [path for path, lines in count.items() if lines > MOST_LINES]


def names_used_twice(root: Path) -> list[str]:
    places = defaultdict(list)
    for path in modules(root):
        for node in ast.parse((root / path).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path))
    return [f"{name}: {', '.join(paths)}" for name, paths in places.items() if len(paths) > 1]


def test_every_module_has_its_tests() -> None:
    assert untested(ROOT) == []


def test_what_has_tests_by_its_own_name_is_not_listed_elsewhere() -> None:
    for module in ELSEWHERE:
        path = Path(module)
        assert (ROOT / path).is_file(), module
        assert not (ROOT / "tests" / path.parent / f"test_{path.name}").is_file(), module


def test_no_file_is_long() -> None:
    assert long_files(ROOT) == []


def test_one_name_for_one_class() -> None:
    assert names_used_twice(ROOT) == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in (*ROOMS, "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.pyc"))
    return tmp_path


def test_what_breaks_a_rule_is_seen(copy: Path) -> None:
    (copy / "compiler/core/lonely.py").write_text("class Unit:\n    pass\n")
    (copy / "passes/graph/long.py").write_text("x = 1\n" * (MOST_LINES + 1))
    (copy / "tests/passes/graph/test_long.py").write_text("")
    (copy / "tests/compiler/core/test_unit.py").unlink()
    assert untested(copy) == ["compiler/core/lonely.py", "compiler/core/unit.py"]
    assert long_files(copy) == ["passes/graph/long.py"]
    assert names_used_twice(copy) == ["Unit: compiler/core/lonely.py, compiler/core/unit.py"]
