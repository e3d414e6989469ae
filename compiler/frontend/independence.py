"""Whether the samples of a batch answer for themselves, found out by running the model on them.

Rows of one batch go through the same kernels whatever stands in the other rows, so a sample whose
neighbours are exchanged gives the same answer to the last bits, or depends on them. At another
place or in another batch kernels round otherwise, which is told from the rest by what a change of
the samples as small as rounding does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from rtc.calibration.oracle import Oracle, with_outputs
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import ModelError, first_line
from rtc.compiler.core.unit import Unit

_SAME = 1e-5  # of the answers' spread: what one kernel gives for one sample, whatever is beside it
_NEAR = 1e-3  # what other kernels give
_ROUNDING = 1e-5  # of the samples: more than any kernel's rounding
_WILD = 2.0  # times as large as real samples
_FEW = 16  # samples whose every tensor is looked at


@dataclass
class NotAlone(Exception):  # noqa: N818 - a finding, which the caller makes an error of or not
    """Why axis 0 is no batch at a size.

    Attributes:
        kind: "fails", "rows" (not one answer for each sample), "random", "neighbours", "place" (in
            the batch), or "size" (of the batch).
        said: the finding as a clause.
        node: where it begins, or "".
    """

    kind: str
    said: str
    node: str = ""


def check_alone(unit: Unit, samples: Array, size: int, others: Sequence[int] = ()) -> None:
    """Find out whether a batch of `size` samples is answered one by one, and alike in others.

    Args:
        unit: an ONNX model of one input and one output (size, classes).
        samples: real ones, at least as many as the largest batch.
        size: of the batch that is looked at closely.
        others: batches that have to give the same.

    Raises:
        NotAlone: it is not.
        ModelError: ONNX Runtime does not take the model.
    """
    with Oracle(unit.onnx.proto) as oracle:
        batch, answer = samples[:size], _Answer(oracle)
        answers = answer(batch)
        if (off := apart(answers, answer(batch))) > _SAME:
            said = f"the same samples give answers that are {_share(off)} apart, run for run"
            raise NotAlone("random", said)
        for mixed, kept, wild in _neighbours(samples, size):
            try:
                seen = answer(mixed)
            except NotAlone as finding:
                if wild and finding.kind == "fails":  # what is looked up by them is not there
                    continue
                raise
            if (off := apart(answers[kept], seen[kept])) > _SAME:
                said = f"an answer moves by {_share(off)} with the samples beside it"
                raise NotAlone("neighbours", said, _mixing_node(unit, batch, mixed, kept))
        rounding = _Rounding(answer, batch, answers)
        if rounding.beyond(off := apart(answers, answer(batch[::-1])[::-1])):
            said = f"an answer moves by {_share(off)} with its place in the batch"
            raise NotAlone("place", said)
        for other in others:
            off = _apart_in(answer, samples, answers, other)
            if rounding.beyond(off):
                said = (
                    f"answers in a batch of {other} are {_share(off)} from those in one of {size}"
                )
                raise NotAlone("size", said)


def apart(wanted: Array, seen: Array) -> float:
    """How far answers are from others: the norm of the difference over that of their spread.

    Answers that are not finite themselves do not count.
    """
    fine = np.isfinite(wanted).all(axis=1)
    old, new = wanted[fine].astype(np.float64), seen[fine].astype(np.float64)
    spread = float(np.linalg.norm(old - old.mean(axis=0))) if len(old) else 0.0
    scale = max(spread, 1e-2 * float(np.linalg.norm(old)), float(np.finfo(np.float32).tiny))
    with np.errstate(invalid="ignore"):
        off = float(np.linalg.norm(new - old)) / scale
    return float("inf") if np.isnan(off) else off


def _share(off: float) -> str:
    return f"{100 * off:.2g} % of the answers' spread"


class _Answer:
    """A model as a function from samples (n, …) to a row of classes for each."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle

    def __call__(self, samples: Array) -> Array:
        try:
            rows = self._oracle.run(np.ascontiguousarray(samples))[self._oracle.outputs[0]]
        except Exception as cause:
            said = f"a batch of {len(samples)} fails: {first_line(cause)}"
            raise NotAlone("fails", said) from cause
        if rows.ndim != 2 or len(rows) != len(samples):
            said = f"{len(samples)} samples give an output of shape {rows.shape}"
            raise NotAlone("rows", said)
        return rows


def _neighbours(samples: Array, size: int) -> list[tuple[Array, Array, bool]]:
    """Batches with other samples in some places, which rows stay, and whether the others are wild.

    Each half stays beside real samples, and one beside wild ones, which a model may not take.
    """
    if size < 2:
        return []
    draw = np.random.default_rng(0)
    mask = draw.permutation(size) < size // 2
    real = np.roll(np.take(samples, range(size, 2 * size), axis=0, mode="wrap"), 1, axis=0)
    order = draw.permutation(samples[0].size)
    wild = _WILD * real.reshape(size, -1)[:, order].reshape(real.shape)
    mixtures = []
    for kept, others in ((mask, real), (~mask, real), (~mask, wild)):
        mixed = samples[:size].copy()
        mixed[~kept] = others[~kept]
        mixtures.append((mixed, kept, others is wild))
    return mixtures


class _Rounding:
    """How far apart answers may be that other kernels give."""

    def __init__(self, answer: _Answer, batch: Array, answers: Array) -> None:
        self._answer, self._batch, self._found = answer, batch, answers

    def beyond(self, off: float) -> bool:
        """Whether that is more than a change of the samples as small as rounding makes."""
        if off <= _NEAR:
            return False
        signs = np.random.default_rng(0).choice([-1.0, 1.0], self._batch.shape)
        moved = (self._batch * (1 + _ROUNDING * signs)).astype(np.float32)
        return off > apart(self._found, self._answer(moved))


def _apart_in(answer: _Answer, samples: Array, answers: Array, other: int) -> float:
    """How far the answers are that another size of batch gives."""
    if other >= len(answers):
        return apart(answers, answer(samples[:other])[: len(answers)])
    end = len(answers) // other * other
    parts = [answer(samples[start : start + other]) for start in range(0, end, other)]
    return apart(answers[:end], np.concatenate(parts))


def _mixing_node(unit: Unit, batch: Array, mixed: Array, kept: Array) -> str:
    """The first node in whose output samples are seen to mix, of those with a row for each.

    It is for a person to read: where it cannot be found there is none.
    """
    import onnx

    graph = onnx.load_model_from_string(unit.onnx.proto).graph
    makers = {tensor: node for node in graph.node for tensor in node.output if tensor}
    if len(batch) > _FEW:
        return ""
    with suppress(ModelError, NotAlone, RuntimeError, ValueError, TypeError):
        proto = with_outputs(unit.onnx.proto, list(makers))
        with Oracle(proto, list(makers)) as oracle:
            before, after = oracle.run(batch), oracle.run(mixed)
        for tensor, node in makers.items():
            old, new = before[tensor], after[tensor]
            if old.ndim and len(old) == len(batch) and old.dtype.kind == "f":
                rows = old[kept].reshape(int(kept.sum()), -1)
                if apart(rows, new[kept].reshape(rows.shape)) > _SAME:
                    return f"{node.name or tensor} ({node.op_type})"
    return ""
