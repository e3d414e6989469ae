"""The exact engine: each alternative is run, from the change on.

The float model runs once for each batch and hands over the tensors where the alternatives branch
off; an alternative then runs only what lies downstream of its change. On a chain of n equal layers
that is (n + 1) / 2 passes and one for the float model. Memory is that of one batch's tensors, with
the batch chosen to suit, and of one copy of the weights, which sessions are fed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

from rtc.calibration.oracle import Oracle, kind_of, session, with_outputs
from rtc.calibration.rounding import emulate_half
from rtc.calibration.sensitivity.alternative import Alternative, Difference, FloatGraph
from rtc.calibration.sensitivity.assembly import Assembly, shared_constants
from rtc.calibration.sensitivity.result import Cost, Sensitivity
from rtc.calibration.sensitivity.shapes import batch_size, multiply_accumulates
from rtc.calibration.sensitivity.tally import Reference, Results, Tally
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import ModelError, first_line
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.progress import Progress, silent

_BITE = 4  # samples of the first batch where time is limited: it shows how long they take
_SHARE = 0.1  # of that time, at most, for one of the other batches


def exact(
    proto: bytes,
    alternatives: Sequence[Alternative],
    split: Split,
    *,
    within_s: float = math.inf,
    progress: Progress = silent,
) -> Sensitivity:
    """Measure every alternative on the samples of `split`, by unoptimised ONNX Runtime.

    Args:
        proto: the float model, (n, …) to (n, classes), as the alternatives were made from.
        alternatives: what to measure.
        split: the samples; with labels, the drop in top-1 accuracy is measured as well.
        within_s: seconds after which no further batch is begun; the first one always is.
        progress: told of samples.

    Raises:
        DataError: an activation of the float model is not finite; the layer is named.
        ModelError: the model is no classifier.
    """
    begun = time.perf_counter()
    base = FloatGraph(proto)
    tails = [_Tail(base, alternative) for alternative in alternatives]
    tensors = sorted({name for tail in tails for name in tail.assembly.tensors(base)})
    outputs = sorted({*tensors, base.logits} - base.inputs)
    constants = shared_constants(base, [tail.assembly for tail in tails])
    results = Results(kind_of(proto, split))
    with Oracle(with_outputs(proto, outputs), outputs) as oracle:
        for start, inputs in _batches(oracle, split, batch_size(base, tensors), within_s):
            values = {oracle.input_name: inputs, **oracle.run(inputs)}
            base.refuse_not_finite(values, start, len(inputs))
            reference = results.reference(values[base.logits], split, start)
            for tail in tails:
                tail.run({**constants, **values}, reference)
            progress(results.samples, len(split), f"{len(tails)} alternatives")
            if time.perf_counter() - begun > within_s:
                break
    work = multiply_accumulates(base)
    passes = 1 + sum(tail.assembly.work(work) for tail in tails) / max(1, sum(work.values()))
    return Sensitivity(
        engine="exact",
        model=digest(proto),
        samples=results.samples,
        seed=0,
        rows=tuple(results.row(tail.alternative, tail.tally) for tail in tails),
        cost=Cost(passes, time.perf_counter() - begun),
    )


def _batches(
    oracle: Oracle, split: Split, size: int, within_s: float
) -> Iterator[tuple[int, Array]]:
    """All samples, `size` at a time, or in batches that take a small part of the time each."""
    if oracle.batch or math.isinf(within_s):
        yield from oracle.batches(split, size)
        return
    begun, start, step = time.perf_counter(), 0, min(size, _BITE)
    while start < len(split):
        yield start, split.inputs(start, start + step)
        start += step
        each_s = (time.perf_counter() - begun) / start
        step = min(size, max(1, int(_SHARE * within_s / each_s)))


class _Tail:
    """What lies downstream of one alternative's change, as a session of its own."""

    def __init__(self, base: FloatGraph, alternative: Alternative) -> None:
        self.alternative, self.tally = alternative, Tally()
        change = Difference(base, alternative)
        self.assembly = part = Assembly(base.model.opset_import)
        names = part.take(change, (change.logits, change.end), prefix="changed/")
        part.feeds.add(change.float_end)
        error = part.error(names[change.end], change.float_end)
        self._outputs = [
            part.node("Identity", [names[change.logits]]),
            part.power(change.float_end),
            part.power(error),
        ]
        proto = emulate_half(part.model(base, self._outputs))
        self._session = session(proto, frugal=True)
        self._fed = [name.name for name in self._session.get_inputs()]

    def run(self, values: Mapping[str, Array], reference: Reference) -> None:
        """Measure one batch, given the float model's tensors and the shared constants."""
        feeds = {name: values[name] for name in self._fed}
        try:
            outputs, signal, noise = self._session.run(self._outputs, feeds)
        except Exception as cause:  # the runtime's errors have no other class in common
            raise ModelError(
                "the exact sensitivity analysis cannot run what lies behind a layer",
                where=f"layer {self.alternative.layer}",
                seen=first_line(cause),
                id="no-sensitivity",
            ) from cause
        self.tally.at_layer(signal, noise)
        self.tally.measured(reference, outputs)
