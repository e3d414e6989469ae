"""The coverage benchmark tells right from wrong, and runs."""

from __future__ import annotations

import numpy as np
import pytest
from coverage import summary
from zoo.cells import RUNTIMES, Cell, Export, _fault, _least, subject


def cell(outcome: str, **fields: object) -> Cell:
    return Cell("resnet18", "convolutional", "dynamo", 20, "openvino", "int8", outcome, **fields)


def test_cells_that_are_left_out_do_not_count() -> None:
    text, holds = summary([cell("right", layers=3, changed=1), cell("left out")])
    assert text.startswith("1 of 1 cells right (100.0 %)")
    assert text.endswith("1 of 3 layers not as planned")
    assert holds


def test_one_wrong_cell_in_a_hundred_is_one_too_many() -> None:
    assert summary([cell("right")] * 99 + [cell("lost")])[1]
    assert not summary([cell("right")] * 99 + [cell("wrong")])[1]
    assert not summary([cell("right")] * 97 + [cell("lost")] * 3)[1]


@pytest.mark.parametrize(
    ("precision", "graph_db", "engine_db", "said"),
    [
        ("fp32", 110.0, 100.0, ""),
        ("fp32", 40.0, 100.0, "the graph's logits are 40.0 dB from PyTorch's"),
        ("fp32", 110.0, 22.5, "the engine's logits are 22.5 dB from its graph's"),
        ("half", 30.0, 35.0, ""),
        ("int8", 12.0, 14.0, ""),
        ("int8", 12.0, 7.5, "the engine's logits are 7.5 dB from its graph's"),
        ("int8", 35.0, 21.0, ""),
        ("mix", -np.inf, 30.0, "the graph's logits are -inf dB from PyTorch's"),
    ],
)
def test_what_is_a_fault(precision: str, graph_db: float, engine_db: float, said: str) -> None:
    found = {"graph_db": graph_db, "engine_db": engine_db}
    assert _fault(_least(precision, "fp16", own_db=110.0), found) == said


def test_a_half_keeps_less_of_a_network_that_amplifies_rounding() -> None:
    found = {"graph_db": 15.0}
    assert _fault(_least("half", "fp16", own_db=110.0), found)
    assert not _fault(_least("half", "fp16", own_db=88.0), found)


def test_bf16_keeps_less_than_fp16() -> None:
    found = {"graph_db": 10.0, "engine_db": 19.5}
    assert _fault(_least("half", "fp16", own_db=105.0), found)
    assert not _fault(_least("half", "bf16", own_db=105.0), found)


def test_a_float_engine_may_order_its_sums_otherwise() -> None:
    found = {"graph_db": 111.6, "engine_db": 84.1, "whole_db": 84.1}
    assert not _fault(_least("fp32", None, own_db=110.0), found)
    assert _fault(_least("fp32", None, own_db=110.0), {**found, "engine_db": 59.0})


def test_an_engine_noisier_than_its_graph_is_a_fault() -> None:
    found = {"graph_db": 5.0, "engine_db": 4.0}
    assert not _fault(_least("int8", None, 110.0), {**found, "whole_db": 5.2})
    assert _fault(_least("int8", None, 110.0), {**found, "whole_db": 3.0})


@pytest.mark.slow
def test_a_network_of_torchvision_is_right_on_every_runtime(tmp_path) -> None:
    what = subject("squeezenet1_1", Export("torchscript", 13), tmp_path)
    cells = list(what.cells(tuple(RUNTIMES), ("int8",), with_peers=False))
    assert [each.outcome for each in cells] == ["right"] * 3, cells
    assert all(each.int8 for each in cells)
