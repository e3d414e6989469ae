from __future__ import annotations

import numpy as np
import pytest

from rtc.compiler.cli.samples import top_classes, write
from rtc.compiler.core.errors import MachineError
from rtc.compiler.core.outputs import OutputKind


def test_the_most_likely_classes_come_first_with_their_probability() -> None:
    logits = np.log(np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], np.float32))
    first, second = top_classes(logits, OutputKind.LOGITS, 2)
    assert [row["class"] for row in first] == [1, 2]
    assert [row["probability"] for row in first] == pytest.approx([0.5, 0.3])
    assert [row["class"] for row in second] == [0, 2]


def test_of_equal_classes_the_first_is_named_first_and_no_more_than_there_are() -> None:
    (row,) = top_classes(np.zeros((1, 3), np.float32), OutputKind.LOGITS, 5)
    assert [each["class"] for each in row] == [0, 1, 2]


def test_a_file_is_written_under_exactly_its_name(tmp_path) -> None:
    write(tmp_path / "out", np.arange(3))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert np.load(tmp_path / "out").tolist() == [0, 1, 2]


def test_where_nothing_can_be_written_the_place_is_named(tmp_path) -> None:
    with pytest.raises(MachineError, match="cannot write it") as refused:
        write(tmp_path / "absent" / "out", np.arange(3))
    assert refused.value.where == str(tmp_path / "absent" / "out")
