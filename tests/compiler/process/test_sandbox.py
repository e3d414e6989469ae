"""Children that crash, hang, grow and chatter: each becomes one clear error, and none stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rtc.compiler.core.errors import BuilderError, InternalError, MachineError, ModelError
from rtc.compiler.process import sandbox


@pytest.fixture(autouse=True)
def importable_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def call(name: str, deadline_s: float = 30.0, **options: object) -> dict[str, bytes]:
    given = {"files": {}, "args": {}, "what": "the build", **options}
    return sandbox.run(f"sandbox_entries:{name}", deadline_s=deadline_s, **given)  # type: ignore[arg-type] - spread options


@pytest.fixture
def counter() -> Iterator[sandbox.Worker]:
    entry = "sandbox_entries:Counter"
    with sandbox.Worker(entry, files={}, args={"start": 5}, what="the counter") as worker:
        yield worker


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie that nobody has reaped yet counts)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def eventually(condition: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + 10
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.02)
    return condition()


def test_files_and_args_go_in_and_files_come_out() -> None:
    files = {"a": b"abc", "empty": b""}
    assert call("reverse", files=files, args={"suffix": "!"}) == {"a!": b"cba", "empty!": b""}


def test_200_megabytes_cross_both_ways() -> None:
    blob = os.urandom(1 << 20) * 200
    (back,) = call("reverse", files={"a": blob}, args={"suffix": ""}).values()
    assert back == blob[::-1]


def test_the_child_has_a_process_group_of_its_own() -> None:
    told = call("where")
    assert told["pid"] == told["group"] != str(os.getpgid(0)).encode()


def test_a_segfault_is_named_and_its_stack_is_kept_for_debug() -> None:
    with pytest.raises(BuilderError, match="the build crashed with SIGSEGV") as caught:
        call("segfault")
    assert caught.value.id == "crashed"
    assert "sandbox_entries.py" in str(caught.value.__cause__)


def test_an_abort_tells_the_last_line_it_wrote() -> None:
    with pytest.raises(BuilderError, match="SIGABRT") as caught:
        call("abort")
    assert caught.value.seen == "assertion failed: rank == 4"


def test_a_hang_meets_its_deadline_with_all_that_it_started(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match=r"the build did not finish within 2 s") as caught:
        call("hang", deadline_s=2.0, args={"pids": str(tmp_path / "pids")})
    assert caught.value.id == "deadline"
    child, grandchild = map(int, (tmp_path / "pids").read_text().split())
    assert eventually(lambda: gone(child) and gone(grandchild))


def test_a_memory_hog_is_stopped_at_its_limit() -> None:
    with pytest.raises(MachineError, match="the build ran out of memory") as caught:
        call("hog", memory_gb=0.3)
    assert caught.value.id == "out-of-memory"
    assert caught.value.expected == "at most 0.3 GB"


@pytest.mark.parametrize("entry", ["too_large", "killed"])
def test_running_out_of_memory_any_other_way_is_the_machines_error(entry: str) -> None:
    with pytest.raises(MachineError, match="the build") as caught:
        call(entry)
    assert caught.value.id == "out-of-memory"


def test_an_exit_is_an_error() -> None:
    with pytest.raises(BuilderError, match="the build exited with status 3"):
        call("leave")


def test_a_death_is_noticed_though_another_process_holds_the_channel() -> None:
    with pytest.raises(BuilderError, match="the build exited with status 5"):
        call("leave_a_child_behind")


def test_nothing_that_the_child_prints_reaches_our_streams(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert call("chatter") == {"said": b"this alone"}
    assert capfd.readouterr() == ("", "")


def test_errors_of_ours_cross_whole() -> None:
    with pytest.raises(ModelError) as caught:
        call("refuse")
    expected = ModelError(
        "two ops are unknown", where="model.onnx", seen="Foo, Bar", id="unknown-op"
    )
    assert caught.value.to_dict() == expected.to_dict()


def test_any_other_exception_is_one_line_with_its_traceback_behind_it() -> None:
    with pytest.raises(BuilderError) as caught:
        call("stumble")
    assert str(caught.value) == "the build failed (seen ZeroDivisionError: a scale of)"
    assert "in stumble" in str(caught.value.__cause__)


def test_a_worker_keeps_its_state_and_carries_files(counter: sandbox.Worker) -> None:
    assert counter.ask({"add": 2}, timeout_s=10)[0]["total"] == 7
    value, files = counter.ask({"add": 3}, {"x": b"ab"}, timeout_s=10)
    assert value["total"] == 10
    assert files == {"x": b"abab"}


def test_a_worker_goes_on_after_an_error_it_raised(counter: sandbox.Worker) -> None:
    with pytest.raises(ModelError, match="no such thing"):
        counter.ask({"refuse": True}, timeout_s=10)
    assert counter.ask({}, timeout_s=10)[0]["total"] == 5


def test_a_worker_that_crashed_is_gone(counter: sandbox.Worker) -> None:
    with pytest.raises(BuilderError, match="the counter crashed with SIGSEGV"):
        counter.ask({"crash": True}, timeout_s=10)
    with pytest.raises(InternalError, match="has ended"):
        counter.ask({}, timeout_s=10)


def test_a_paused_worker_does_not_run_until_it_is_resumed(counter: sandbox.Worker) -> None:
    pid = counter.ask({}, timeout_s=10)[0]["pid"]
    state = Path(f"/proc/{pid}/stat")
    counter.pause()
    assert eventually(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
    counter.resume()
    assert counter.ask({"add": 1}, timeout_s=10)[0]["total"] == 6


def test_closing_ends_a_paused_worker_and_can_be_repeated(counter: sandbox.Worker) -> None:
    pid = counter.ask({}, timeout_s=10)[0]["pid"]
    counter.pause()
    counter.close()
    counter.close()
    assert gone(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_child_dies_with_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = (
        "from rtc.compiler.process import sandbox\n"
        f"sandbox.run('sandbox_entries:hang', files={{}}, args={{'pids': {str(pids)!r}}},"
        " deadline_s=600, what='the build')"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stderr=subprocess.DEVNULL,
    )
    assert eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    child, grandchild = map(int, pids.read_text().split())
    parent.send_signal(number)
    parent.wait(timeout=60)
    assert eventually(lambda: gone(child))
    if not gone(grandchild):  # the kernel's signal reaches the child alone
        os.kill(grandchild, signal.SIGKILL)


def test_the_environment_of_the_parent_is_untouched() -> None:
    before = dict(os.environ)
    call("where")
    assert dict(os.environ) == before
