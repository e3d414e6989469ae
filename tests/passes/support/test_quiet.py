from __future__ import annotations

import logging
import warnings

import pytest

from rtc.passes.support.quiet import quiet


def test_warnings_and_records_are_held_back_and_come_again(caplog: pytest.LogCaptureFixture):
    log = logging.getLogger("some.library")
    with quiet():
        warnings.warn("look at me", FutureWarning, stacklevel=1)
        log.critical("and me")
    assert caplog.records == []
    log.error("now")
    assert [record.message for record in caplog.records] == ["now"]
    with pytest.warns(FutureWarning, match="again"):
        warnings.warn("again", FutureWarning, stacklevel=1)


def test_errors_pass_and_everything_is_put_back(caplog: pytest.LogCaptureFixture):
    level = logging.root.manager.disable
    with pytest.raises(ValueError, match="mine"), quiet():
        raise ValueError("mine")
    assert logging.root.manager.disable == level


def test_standard_output_stays(capsys: pytest.CaptureFixture[str]):
    with quiet():
        print("progress")  # noqa: T201
    assert capsys.readouterr().out == "progress\n"
