"""What one stage did to a model's outputs: the unit before against the unit after, on real samples.

ONNX units run in the oracle (unoptimised ONNX Runtime), PyTorch units in eager mode, float32, both
on the CPU. `check` judges against the bound that a pass promised. A "disagreement" breaks it where
its whole 95 % interval lies beyond: a broken pass changes far more, and the gates judge what ships
on the whole test set. What is `Sound` is held to no share at all. Nothing that is not finite ever
passes, nor does a comparison of no samples.

What is exact is exact on any input: samples whose values are shuffled are a second question, for
what real ones never touch. Outputs may be of any size there, so it is their norms that count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from rtc.calibration.decibels import decibels
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Preprocess, Split, filled
from rtc.compiler.core.errors import (
    GateError,
    InternalError,
    MachineError,
    ModelError,
    first_line,
)
from rtc.compiler.core.intervals import wilson
from rtc.compiler.core.passes import Bound, Bounded, Exact, Sound
from rtc.compiler.core.results import CertificateRow
from rtc.compiler.core.unit import Level, TensorSpec, Unit
from rtc.compiler.measure import accuracy

Outputs = dict[str, Array]
"""Tensors (N, …) by name; the first is what a classifier's metrics read."""
Verdict = tuple[bool, str]
"""Whether it passed, and the sentence that says what was measured."""

WHERE = "float reference on the CPU"
_SHUFFLED = 8  # samples
_APART = 1e-3  # of the norm of the outputs on shuffled samples: rounding makes 1e-6 of it
_KEPT = 16  # outputs of units: a few megabytes each at most
_lately: dict[tuple[str, str, str, int, int], Outputs] = {}


def check(
    before: Unit,
    after: Unit,
    bound: Bound,
    split: Split,
    *,
    stage: str,
    samples: int = 256,
    batch: int = 64,
    data: str = "",
) -> CertificateRow:
    """Run both units on the first `samples` of `split` and hold the outputs against `bound`.

    A signature's fixed batch goes before `batch`; the last one is filled up. A unit that does not
    run, or whose signature changed, fails with the reason; nothing is raised for it.

    With `data`, the digest of what `split` is of, a unit that was checked lately does not run
    again: each pass's input is the output of the one before, and many passes change nothing.

    Raises:
        MachineError: a library that one of the units needs is not installed.
        DataError: a label that the models have no class for.
        InternalError: the bound names a metric that does not exist.
    """
    fixed = before.fixed_batch or after.fixed_batch
    chosen = split.head(min(samples, len(split)))
    try:
        on = _Samples(chosen, fixed or batch, fixed or 1, data)
        passed, measured = _judge(before, after, bound, on)
    except (ModelError, GateError) as error:
        passed, measured = False, str(error)
    return CertificateRow(
        stage=stage,
        exact=isinstance(bound, Exact),
        bound=sentence(bound),
        measured=measured,
        samples=len(chosen),
        passed=passed,
        before=before.digest,
        after=after.digest,
    )


def sentence(bound: Bound) -> str:
    """The bound in words."""
    if isinstance(bound, Exact):
        return f"every element within {bound.atol:g} or {bound.rtol:g}·|x|, whichever is larger"
    if isinstance(bound, Sound):
        return "outputs are finite and no guesses; the gates say how far they may change"
    if bound.metric == "top1_drop":
        return f"top-1 accuracy drops by at most {100 * bound.limit:g} points"
    return (
        f"the top-1 class is not shown to change for more than {100 * bound.limit:g} % of samples"
    )


def signature_change(before: Unit, after: Unit) -> str:
    """What of the signature changed, or "".

    A symbolic dimension may change its name, and a change of level (export) may rename tensors;
    anything else is a change.
    """
    renames = before.level is not after.level
    for side in ("inputs", "outputs"):
        old: tuple[TensorSpec, ...] = getattr(before.signature, side)
        new: tuple[TensorSpec, ...] = getattr(after.signature, side)
        if _shape_of(old, renames) != _shape_of(new, renames):
            return f"the {side} changed from {_text(old)} to {_text(new)}"
    return ""


def _shape_of(tensors: tuple[TensorSpec, ...], renames: bool) -> list[tuple[object, ...]]:
    """What must stay as it is."""
    return [
        ("" if renames else t.name, t.dtype, *("?" if isinstance(d, str) else d for d in t.shape))
        for t in tensors
    ]


def _text(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{t.name}: {t.dtype}[{', '.join(map(str, t.shape))}]" for t in tensors)


@dataclass(frozen=True)
class _Samples:
    """What both units run on, `batch` at a time: a multiple of `whole`, which a unit may fix.

    `data` is "" where nothing tells these samples from others.
    """

    split: Split
    batch: int
    whole: int
    data: str


def _judge(before: Unit, after: Unit, bound: Bound, on: _Samples) -> Verdict:
    split = on.split
    if not len(split):
        return False, "there are no samples to compare"
    if reason := signature_change(before, after):
        return False, reason
    reference = _outputs("before", before, on)
    result = _outputs("after", after, on)
    result = dict(zip(reference, result.values(), strict=True))  # an export may rename outputs
    if reason := _incomparable(reference, result):
        return False, reason + _whence(after, result, on)
    if isinstance(bound, Exact):
        passed, said = _exact(reference, result, bound)
        reason = _apart(before, after, _shuffled(on)) if passed else ""
        return (False, reason) if reason else (passed, said)
    first, second = next(iter(reference.values())), next(iter(result.values()))
    if isinstance(bound, Sound):
        return _sound(first, second)
    return _bounded(first, second, bound, split)


def _incomparable(reference: Outputs, result: Outputs) -> str:
    """Why there is nothing to compare, or ""."""
    for name, expected in reference.items():
        if result[name].shape != expected.shape:
            return f"output {name} is {result[name].shape}, and was {expected.shape}"
        if not expected.size:
            return f"output {name} is empty"
        for side, values in (("before", expected), ("after", result[name])):
            if not np.isfinite(values).all():
                at = _at(name, int(np.isfinite(values).argmin()), values)
                return f"{at} is not finite {side} this stage"
    return ""


def _whence(unit: Unit, result: Outputs, on: _Samples) -> str:
    """The layer that makes a unit's outputs other than finite, as a clause; "" where none does."""
    finite = [
        np.isfinite(output).reshape(len(output), -1).all(axis=1) for output in result.values()
    ]
    sample = next((int(is_finite.argmin()) for is_finite in finite if not is_finite.all()), None)
    if unit.level is not Level.ONNX or sample is None:
        return ""
    from rtc.calibration.oracle import first_not_finite

    start = sample // on.whole * on.whole
    layer = first_not_finite(unit.onnx.proto, on.split.inputs(start, start + on.whole))
    return f"; {layer} is the first that is not" if layer else ""


def _exact(reference: Outputs, result: Outputs, bound: Exact) -> Verdict:
    """Polygraphy's element-wise rule, and the element that is furthest off in terms of it."""
    passed = _polygraphy(reference, result, bound)
    beyond, worst, said = 0, -1.0, ""
    for name, expected in reference.items():
        old, new = expected.astype(np.float64), result[name].astype(np.float64)
        off = np.abs(new - old)
        allowed = np.maximum(bound.atol, bound.rtol * np.abs(old))
        beyond += int(np.count_nonzero(off > allowed))
        shares = off / np.maximum(allowed, np.finfo(np.float64).tiny)
        if (share := float(shares.max())) > worst:
            worst, i = share, int(shares.argmax())
            change = f"from {old.flat[i]:.6g} to {new.flat[i]:.6g}"
            said = f"{_at(name, i, old)} differs by {off.flat[i]:.3g}, {change}"
    if passed:
        return True, f"at most {said}" if worst else "identical"
    total = sum(values.size for values in reference.values())
    return False, f"{said}; {beyond} of {total} elements are beyond the bound"


def _shuffled(on: _Samples) -> _Samples:
    """Some of the samples, the values of each in another order."""
    few = on.split.head(_SHUFFLED)
    values = few.inputs()
    order = np.random.default_rng(0).permutation(values[0].size)
    mixed = values.reshape(len(values), -1)[:, order].reshape(values.shape)
    return replace(on, split=Split("shuffled", mixed, few.labels, Preprocess()))


def _apart(before: Unit, after: Unit, on: _Samples) -> str:
    """Why the outputs are not the same but for rounding, or ""."""
    if before.digest == after.digest:
        return ""
    reference, result = _outputs("before", before, on), _outputs("after", after, on)
    for (name, old), new in zip(reference.items(), result.values(), strict=True):
        sound = np.isfinite(old).reshape(len(old), -1).all(axis=1)
        wanted = old[sound].astype(np.float64)
        off = float(np.linalg.norm(new[sound] - wanted))
        if not off <= _APART * float(np.linalg.norm(wanted)):
            share = off / max(float(np.linalg.norm(wanted)), np.finfo(np.float64).tiny)
            return f"{name} differs by {share:.3g} of its norm on samples with values shuffled"
    return ""


def _polygraphy(reference: Outputs, result: Outputs, bound: Exact) -> bool:
    from polygraphy.comparator import Comparator, RunResults, SimpleCompareFunc
    from polygraphy.logger import G_LOGGER

    compare = SimpleCompareFunc(
        atol=bound.atol, rtol=bound.rtol, check_error_stat="elemwise", check_shapes=True
    )
    results = RunResults()
    results.add([result], runner_name="after")
    results.add([reference], runner_name="before")
    # It logs to our stdout. Relative errors of values next to zero overflow, as they may.
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(over="ignore"):
        return bool(Comparator.compare_accuracy(results, compare_func=compare))


def _bounded(reference: Array, result: Array, bound: Bounded, split: Split) -> Verdict:
    # A PyTorch module may leave axes of 1 behind its classes.
    reference, result = (rows.reshape(len(rows), -1) for rows in (reference, result))
    if bound.metric == "disagreement":
        same = accuracy.agreement(result, reference, WHERE)
        count = round((1 - same.value) * same.samples)
        interval = wilson(count, same.samples)
        span = f"95 % interval {100 * interval.low:.2f} to {100 * interval.high:.2f}"
        said = (
            f"changes for {count} of {same.samples} samples ({100 * interval.value:.2f} %; {span})"
        )
        # Of no change, rounding may put the lower end above zero.
        return min(interval.value, interval.low) <= bound.limit, said
    if bound.metric != "top1_drop":
        raise InternalError(f'no metric is named "{bound.metric}"', where="bound")
    if split.labels is None:
        return False, "top-1 accuracy needs labels, and these samples have none"
    drop = accuracy.top1_drop(reference, result, split.labels, WHERE)
    assert drop.low is not None
    assert drop.high is not None
    word, sign = ("drops", 1) if drop.value >= 0 else ("rises", -1)
    value, *ends = (100 * sign * each for each in (drop.value, drop.low, drop.high))
    span = f"95 % interval {min(ends):.2f} to {max(ends):.2f}"
    return drop.value <= bound.limit, f"{word} by {value:.2f} points ({span})"


def _sound(reference: Array, result: Array) -> Verdict:
    """Whether anything of the reference is left: beyond chance in the top-1 class, or in size."""
    same = accuracy.agreement(result, reference, WHERE)
    classes = [np.bincount(each.argmax(axis=1)) / len(each) for each in (reference, result)]
    width = min(map(len, classes))
    chance = float(classes[0][:width] @ classes[1][:width])
    wanted = reference.astype(np.float64)
    varies = float(np.square(wanted - wanted.mean(axis=0)).sum())
    changed = float(np.square(result - wanted).sum())
    count = round((1 - same.value) * same.samples)
    said = (
        f"the top-1 class changes for {count} of {same.samples} samples"
        f" ({100 * (1 - same.value):.2f} %; {100 * (1 - chance):.2f} % by chance),"
        f" {decibels(varies, changed):.1f} dB"
    )
    return same.value > chance or same.value == 1.0 or changed < varies, said


def _at(name: str, flat: int, values: Array) -> str:
    index = np.unravel_index(flat, values.shape)
    return f"{name}[{', '.join(str(int(i)) for i in index)}]"


def _outputs(side: str, unit: Unit, on: _Samples) -> Outputs:
    """Every output of a unit over all samples, as it was found lately or by running it."""
    key = (unit.digest, on.data, on.split.name, len(on.split), on.batch)
    if on.data and key in _lately:
        return _lately[key]
    result = _run(side, unit, on)
    if not on.data:
        return result
    _lately[key] = result
    while len(_lately) > _KEPT:
        del _lately[next(iter(_lately))]  # the oldest
    return result


def _run(side: str, unit: Unit, on: _Samples) -> Outputs:
    try:
        with _running(unit) as run:
            parts = [_rows(run, inputs, on.whole) for inputs in on.split.batches(on.batch)]
    except (MachineError, ImportError):
        raise  # a missing library is no fault of the model's
    except Exception as error:
        seen = first_line(error)
        raise ModelError(f"the model {side} this stage does not run", seen=seen) from error
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(run: Callable[[Array], Outputs], inputs: Array, whole: int) -> Outputs:
    """What a unit gives for these samples, in whole batches."""
    return {name: rows[: len(inputs)] for name, rows in run(filled(inputs, whole)).items()}


@contextmanager
def _running(unit: Unit) -> Iterator[Callable[[Array], Outputs]]:
    """A function from inputs (n, …) to outputs, on the CPU in float32."""
    if unit.level is Level.ONNX:
        from rtc.calibration.oracle import Oracle

        with Oracle(unit.onnx.proto) as oracle:
            yield oracle.run
        return
    from rtc.compiler.measure.worker import EagerRunner

    with EagerRunner(unit) as eager:
        name = unit.signature.inputs[0].name
        yield lambda inputs: eager.run({name: inputs})
