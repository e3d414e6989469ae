import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sealed_bundles import FILES, MADE, VERSION, content, damage, home

from rtc.compiler.bundle import bundles
from rtc.compiler.bundle.bundles import MANIFEST, Manifest, publish, verify
from rtc.compiler.core.errors import IntegrityError, InternalError, MachineError, RecipeError
from rtc.compiler.core.outputs import OutputKind
from rtc.compiler.storage import sealed

FAILED = dataclasses.replace(MADE, passed=False)
OTHER = dataclasses.replace(MADE, version="1.1.0+ffffffffffff")


def test_a_bundle_has_its_place_and_latest_leads_to_it(tmp_path: Path) -> None:
    made = publish(tmp_path, MADE, FILES)
    assert made == home(tmp_path) / VERSION
    assert (home(tmp_path) / "latest").readlink() == Path(VERSION)
    assert set(content(made)) == {*FILES, MANIFEST}
    assert sorted(path.name for path in home(tmp_path).iterdir()) == [VERSION, "latest"]


@pytest.mark.parametrize(
    "named", [f"lenet5-mnist/cpu/{VERSION}", "lenet5-mnist/cpu/latest", "lenet5-mnist/cpu"]
)
def test_what_was_published_is_verified(tmp_path: Path, named: str) -> None:
    made = publish(tmp_path, MADE, FILES)
    found = verify(tmp_path / named)
    assert (found.path, found.files, found.engine) == (made, FILES, FILES["engine.onnx"])
    assert found.manifest == dataclasses.replace(MADE, files=sealed.listing(FILES))


OLD = Path(__file__).with_name("old_manifest.json")


def test_a_manifest_of_before_there_were_some_fields_is_what_it_was() -> None:
    found = Manifest.from_json(OLD.read_bytes())
    assert found == dataclasses.replace(MADE, files=sealed.listing(FILES))
    assert (found.output, found.engine.forms, found.engine.held_on) == (OutputKind.LOGITS, {}, "")
    told = json.loads(OLD.read_bytes())
    assert not {"forms", "held_on"} & set(told["engine"])
    assert "output" not in told


@pytest.mark.parametrize("place", [(), ("engine",), ("signature", "inputs", 0), ("preprocess",)])
def test_a_field_that_no_manifest_has_is_refused_wherever_it_is(place) -> None:
    told = json.loads(OLD.read_bytes())
    del told["digest"]
    within = told
    for step in place:
        within = within[step]
    within["more"] = 1
    with pytest.raises(IntegrityError):
        Manifest.from_json(sealed.render(told))


def test_a_manifest_tells_what_the_engine_gives() -> None:
    whole = dataclasses.replace(MADE, files=sealed.listing(FILES))
    odd = dataclasses.replace(whole, output=OutputKind.PROBABILITIES)
    assert json.loads(odd.to_json())["output"] == "probabilities"
    assert Manifest.from_json(odd.to_json()).output is OutputKind.PROBABILITIES


def test_a_manifest_survives_its_json() -> None:
    whole = dataclasses.replace(MADE, files=sealed.listing(FILES))
    assert Manifest.from_json(whole.to_json()) == whole


def test_two_folders_and_two_surroundings_give_the_same_bytes(tmp_path: Path) -> None:
    first = publish(tmp_path / "a", MADE, FILES)
    turned = dataclasses.replace(MADE, versions=dict(reversed(MADE.versions.items())))
    second = publish(tmp_path / "b" / "c", turned, dict(reversed(FILES.items())))
    assert content(first) == content(second)


def test_a_name_that_is_taken_holds_what_it_held(tmp_path: Path) -> None:
    made = publish(tmp_path, MADE, FILES)
    again = {**FILES, "engine.onnx": b"built again"}
    assert publish(tmp_path, MADE, again) == made
    assert verify(made).files == FILES
    assert len(list(home(tmp_path).iterdir())) == 2


def test_what_is_compiled_afresh_stands_beside_the_first(tmp_path: Path) -> None:
    place = home(tmp_path)
    assert bundles.newest(place, VERSION) == ""
    assert bundles.afresh(place, VERSION) == VERSION
    made = [publish(tmp_path, MADE, FILES)]
    for number, passed in ((2, True), (3, False), (4, True)):
        name = bundles.afresh(place, VERSION)
        assert name == f"{VERSION}.{number}"
        again = dataclasses.replace(MADE, version=name, passed=passed)
        made.append(publish(tmp_path, again, FILES))
    assert verify(place).path == made[-1]
    assert verify(made[2]).manifest.version == f"{VERSION}.3"
    shutil.rmtree(made[3])
    assert bundles.newest(place, VERSION) == f"{VERSION}.2"  # what passed goes before what failed
    assert bundles.afresh(place, VERSION) == f"{VERSION}.4"
    publish(tmp_path, dataclasses.replace(MADE, version=f"{VERSION}.4"), FILES)
    assert set(bundles.list_bundles(tmp_path)) == set(made)
    for number in range(5, 11):
        (place / f"{VERSION}.{number}").mkdir()
    assert bundles.newest(place, VERSION) == f"{VERSION}.10"
    assert bundles.newest(place, f"{VERSION}.1") == ""


@pytest.mark.parametrize("harm", [damage, shutil.rmtree, lambda made: (made / MANIFEST).unlink()])
def test_a_damaged_bundle_is_moved_aside_and_written_again(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    warnings: list[str] = []
    made = publish(tmp_path, MADE, FILES)
    harm(made)
    gone = not made.exists()
    publish(tmp_path, MADE, FILES, warn=warnings.append)
    assert verify(made).files == FILES
    aside = [path for path in home(tmp_path).iterdir() if path.name.startswith(".damaged-")]
    assert len(aside) == len(warnings) == (0 if gone else 1)
    assert bundles.list_bundles(tmp_path) == (made,)


def test_another_bundle_under_this_name_is_not_taken_for_this_one(tmp_path: Path) -> None:
    warnings: list[str] = []
    publish(tmp_path, OTHER, FILES).rename(home(tmp_path) / VERSION)
    made = publish(tmp_path, MADE, FILES, warn=warnings.append)
    assert verify(made).manifest.version == VERSION
    assert "is another bundle" in warnings[0]


def test_a_failed_bundle_is_kept_apart_and_never_latest(tmp_path: Path) -> None:
    failed = publish(tmp_path, FAILED, FILES)
    assert failed == home(tmp_path) / f"{VERSION}.failed"
    assert not verify(failed).manifest.passed
    with pytest.raises(
        RecipeError, match=rf"passed its gates \(seen {VERSION}\.failed\)".replace("+", r"\+")
    ):
        verify(home(tmp_path))
    made = publish(tmp_path, MADE, FILES)
    publish(tmp_path, FAILED, FILES)
    assert verify(home(tmp_path)).path == made
    assert bundles.list_bundles(tmp_path) == (made, failed)


def test_latest_follows_the_last_compile(tmp_path: Path) -> None:
    for manifest in (MADE, OTHER, MADE):
        made = publish(tmp_path, manifest, FILES)
        assert verify(home(tmp_path)).path == made


def test_a_bundle_that_was_there_already_becomes_latest_if_it_passed(tmp_path: Path) -> None:
    made = publish(tmp_path, MADE, FILES)
    other = publish(tmp_path, OTHER, FILES)
    failed = publish(tmp_path, FAILED, FILES)
    bundles.make_latest(verify(failed))
    assert verify(home(tmp_path)).path == other
    (home(tmp_path) / "latest").unlink()
    bundles.make_latest(verify(made))
    assert verify(home(tmp_path)).path == made


def test_there_are_no_bundles_where_there_is_nothing(tmp_path: Path) -> None:
    assert bundles.list_bundles(tmp_path / "none") == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../x"},
        {"name": ""},
        {"target": "a/b"},
        {"version": "1.0.0"},
        {"version": "1.0.0+0123456789AB"},
        {"engine": dataclasses.replace(MADE.engine, file="none.onnx")},
    ],
)
def test_fields_that_cannot_be_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InternalError):
        publish(tmp_path / "out", dataclasses.replace(MADE, **wrong), FILES)
    assert not (tmp_path / "out").exists()


def test_a_nan_never_gets_into_a_manifest(tmp_path: Path) -> None:
    gates = ({"name": "top1_drop", "found": float("nan")},)
    with pytest.raises(ValueError, match="JSON"):
        publish(tmp_path / "out", dataclasses.replace(MADE, gates=gates), FILES)
    assert not (tmp_path / "out").exists()


def test_no_home_path_leaves_with_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada/")
    gates = ({"reason": "not in /home/ada/weights, /home/ada or /home/adam"},)
    made = publish(tmp_path, dataclasses.replace(MADE, gates=gates), FILES)
    assert verify(made).manifest.gates == ({"reason": "not in ~/weights, ~ or /home/adam"},)


def test_no_home_path_leaves_in_a_text_of_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/zoë & co")
    texts = {
        "report.json": json.dumps({"note": "/home/zoë & co/data"}).encode(),
        "report.html": b"<p>/home/zo\xc3\xab &amp; co/data</p>",
        "recipe.yaml": "# /home/zoë & co/data\n".encode(),
    }
    found = verify(publish(tmp_path, MADE, {**FILES, **texts})).files
    assert json.loads(found["report.json"]) == {"note": "~/data"}
    assert found["report.html"] == b"<p>~/data</p>"
    assert found["recipe.yaml"] == b"# ~/data\n"


def test_an_output_folder_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "build").write_bytes(b"")
    with pytest.raises(MachineError, match=r"is not a folder; .*--out DIR"):
        publish(tmp_path / "build", MADE, FILES)


def test_importing_it_takes_nothing_heavy() -> None:
    heavy = {"pydantic", "onnx", "torch"}
    code = (
        "import sys, rtc.compiler.bundle.bundles, rtc.compiler.storage.store; "
        f"print({heavy} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
