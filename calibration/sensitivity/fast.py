"""The fast engine: each layer's own noise, taken to the output by gradients.

To first order an alternative changes the output by J·δ, where δ is what it changes at the layer
(measured: the layer alone is run again) and J the Jacobian of the output there. For any v, one walk
back over the graph gives vᵀJ at every layer at once, so vᵀJδ of every alternative costs one pass.
Three vectors for each sample answer three questions:

- v of random signs u: E[(uᵀJδ)²] = ‖Jδ‖², the noise at the output (Hutchinson, Communications in
  Statistics 18 (1989) 1059-1076). uᵀJδ = Σ s_c over the layer's channels, and Σ s_c² is taken for
  its square: rounding errors of different channels are taken to be uncorrelated (Widrow, Kollár &
  Liu, IEEE Trans. Instrumentation and Measurement 45 (1996) 353-361). What that leaves out is most
  of the variance of one draw of u, and adds a bias of about 1 dB from layer to layer;
- v = Au with AAᵀ = diag(p) - ppᵀ, the Fisher information of softmax: half the square, taken
  likewise, is the Kullback-Leibler divergence to second order (Amari, Neural Computation 10 (1998)
  251-276);
- v = top-1 minus runner-up: vᵀJδ is the change of the margin, and its sign decides the class.

One pass for the float model, one for the layers in each precision, three back: at most six with two
precisions. Intervals cover the sampling alone; that the expansion stops where it does is checked
against the exact engine (tests/benchmarks/sensitivity.py). Where writing a layer in INT8 also
changes what its neighbours read (Q crosses a MaxPool that has several readers), only what goes
through the layer is counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from rtc.calibration.oracle import session
from rtc.calibration.rounding import emulate_half
from rtc.calibration.sensitivity.alternative import Alternative, Difference, FloatGraph
from rtc.calibration.sensitivity.assembly import Assembly, shared_constants
from rtc.calibration.sensitivity.gradient import Gradient
from rtc.calibration.sensitivity.result import Cost, Sensitivity
from rtc.calibration.sensitivity.shapes import batch_size, multiply_accumulates, shapes
from rtc.calibration.sensitivity.tally import Results, Tally
from rtc.compiler.core.data import Array, Split
from rtc.compiler.core.errors import ModelError, first_line
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.progress import Progress, silent

_SIGNS = "rtc/signs"


def fast(
    proto: bytes,
    alternatives: Sequence[Alternative],
    split: Split,
    *,
    seed: int = 0,
    within_s: float = math.inf,
    progress: Progress = silent,
) -> Sensitivity:
    """Estimate every alternative's effect from the samples of `split`.

    Args:
        proto: the float model, (n, …) to logits (n, classes), as the alternatives were made from.
        alternatives: what to estimate.
        split: the samples; with labels, the drop in top-1 accuracy is estimated as well.
        seed: of the random signs.
        within_s: seconds after which no further batch is begun; the first one always is.
        progress: told of samples.

    Raises:
        DataError: an activation of the float model is not finite; the layer is named.
        ModelError: the model is no classifier, or holds an operator without a gradient here.
    """
    begun = time.perf_counter()
    base = FloatGraph(proto)
    circuit = _Circuit(base, alternatives)
    results, tallies = Results(), [Tally() for _ in alternatives]
    random = np.random.default_rng(seed)
    end = len(split) - (len(split) % base.batch if base.batch else 0)
    for start in range(0, end, circuit.batch):
        inputs = split.inputs(start, min(start + circuit.batch, end))
        logits, found = circuit.run(inputs, random)
        base.refuse_not_finite(
            {
                each.float_end: powers[0]
                for each, powers in zip(circuit.changes, found, strict=True)
            },
            start,
        )
        reference = results.reference(logits, split, start)
        for tally, (signal, noise, signs, fisher, margin) in zip(tallies, found, strict=True):
            tally.at_layer(signal, noise)
            tally.predicted(reference, signs, fisher / 2, margin)
        progress(results.samples, len(split), f"{len(alternatives)} alternatives")
        if time.perf_counter() - begun > within_s:
            break
    return Sensitivity(
        engine="fast",
        model=digest(proto),
        samples=results.samples,
        seed=seed,
        rows=tuple(map(results.row, alternatives, tallies)),
        cost=Cost(circuit.passes, time.perf_counter() - begun),
    )


class _Circuit:
    """One session: the float model, each layer in its alternatives, and three gradients.

    Attributes:
        changes: where each alternative differs.
        batch: samples for each run.
        passes: multiply-accumulates in passes of the float model.
    """

    def __init__(self, base: FloatGraph, alternatives: Sequence[Alternative]) -> None:
        self.changes = [Difference(base, each) for each in alternatives]
        self._classes = shapes(base.graph)[base.logits][-1]
        part = Assembly(base.model.opset_import)
        part.take_float(base)
        errors = [self._error(part, change, index) for index, change in enumerate(self.changes)]
        ends = [change.float_end for change in self.changes]
        gradient = Gradient(base, part)
        back = [gradient.back(v, ends) for v in _vectors(part, base.logits, self._classes)]
        self._outputs = [base.logits]
        for each, error, end in zip(alternatives, errors, ends, strict=True):
            axes = _within_channels(base, each.layer, len(gradient.shapes[end]))
            products = (part.node("Mul", [gradients[end], error]) for gradients in back)
            signs, fisher, margin = (part.summed(product, axes) for product in products)
            self._outputs += [part.power(end), part.power(error)]
            self._outputs += [part.power(signs), part.power(fisher), part.sum_of_samples(margin)]
        work = multiply_accumulates(base.graph)
        self.passes = part.work(work) / max(1, sum(work.values()))
        self.batch = batch_size(base, [name for node in base.graph.node for name in node.output])
        self._input = base.graph.input[0].name
        self._constants = shared_constants(base, [part])
        proto = emulate_half(part.model(base, self._outputs, {_SIGNS: ("batch", self._classes)}))
        self._session = session(proto, frugal=True)

    def _error(self, part: Assembly, change: Difference, index: int) -> str:
        names = part.take(change, [change.end], prefix=f"alternative/{index}/")
        return part.error(names[change.end], change.float_end)

    def run(self, inputs: Array, random: np.random.Generator) -> tuple[Array, list[list[Array]]]:
        """The logits, and of each alternative: signal, noise, and its three answers, all (n,).

        These are (uᵀJδ)² and (uᵀAᵀJδ)², both without cross terms, and the change of the margin.
        """
        signs = random.choice(np.array([-1, 1], np.float32), (len(inputs), self._classes))
        feeds = {**self._constants, self._input: inputs, _SIGNS: signs}
        try:
            logits, *rest = self._session.run(self._outputs, feeds)
        except Exception as cause:  # the runtime's errors have no other class in common
            raise ModelError(
                "the fast sensitivity analysis cannot run this graph's gradients",
                seen=first_line(cause),
                fix="use the exact one",
                id="no-gradient",
            ) from cause
        return logits, [rest[i : i + 5] for i in range(0, len(rest), 5)]


def _within_channels(base: FloatGraph, layer: str, rank: int) -> list[int]:
    """The axes of a layer's output besides samples and channels."""
    last = base.nodes[layer].op_type in ("Gemm", "MatMul")
    return list(range(1, rank - 1) if last else range(2, rank))


def _vectors(part: Assembly, logits: str, classes: int) -> tuple[str, str, str]:
    """Random signs, the same through A = diag(√p)(1 - √p√pᵀ), and top-1 minus runner-up."""
    last = part.constant(np.array([1], np.int64))
    root = part.node("Sqrt", [part.node("Softmax", [logits], axis=1)])
    along = part.node("ReduceSum", [part.node("Mul", [root, _SIGNS]), last], keepdims=1)
    apart = part.node("Sub", [_SIGNS, part.node("Mul", [root, along])])
    fisher = part.node("Mul", [root, apart])
    two = part.constant(np.array([2], np.int64))
    _, places = part.nodes_of("TopK", [logits, two], 2)
    depth = part.constant(np.array(classes, np.int64))
    values = part.constant(np.array([0, 1], np.float32))
    chosen = part.node("OneHot", [places, depth, values], axis=-1)
    first_minus_second = part.constant(np.array([[1], [-1]], np.float32))
    signed = part.node("Mul", [chosen, first_minus_second])
    return _SIGNS, fisher, part.node("ReduceSum", [signed, last], keepdims=0)
