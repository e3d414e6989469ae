"""The fast engine: each layer's own noise, taken to the output by gradients.

To first order an alternative changes the output by J·δ, where δ is what it changes at the layer
(measured: the layer alone is run again) and J the Jacobian of the output there. For any v, one walk
back over the graph gives vᵀJ at every layer at once, so vᵀJδ of every alternative costs one pass.
Three vectors for each sample answer three questions:

- v of random signs u: E[(uᵀJδ)²] = ‖Jδ‖², the noise at the output (Hutchinson, Communications in
  Statistics 18 (1989) 1059-1076);
- v = Au with AAᵀ = diag(p) - ppᵀ, the Fisher information of softmax: half the square is the
  Kullback-Leibler divergence to second order (Amari, Neural Computation 10 (1998) 251-276);
- v = top-1 minus runner-up: vᵀJδ is the change of the margin, and its sign decides the class.

The output is that of logits z. A model that gives probabilities p has z = ln p, so its v is v ⊘ p.

Of the first two vᵀJδ = Σ s_c over the layer's channels, and both (Σ s_c)² and Σ s_c² estimate what
is wanted. The first is right on average, and varies with the draw of u. The second takes rounding
errors of different channels to be uncorrelated (Widrow, Kollár & Liu, IEEE Trans. Instrumentation
and Measurement 45 (1996) 353-361), which leaves out most of that variance and adds a bias, of 1 to
3 dB from layer to layer. They are weighed by what both come to on all layers (`_blended`).

One pass for the float model, one for the layers in each precision, three back: at most six with two
precisions, and where activations are multiplied by activations three more for these products.
Intervals cover the sampling alone; that the expansion stops where it does is checked against the
exact engine (tests/benchmarks/sensitivity.py). Where writing a layer in INT8 also changes what its
neighbours read (Q crosses a MaxPool that has several readers), only what goes through the layer is
counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rtc.calibration.oracle import kind_of, session
from rtc.calibration.rounding import emulate_half
from rtc.calibration.sensitivity.alternative import Alternative, Difference, FloatGraph
from rtc.calibration.sensitivity.assembly import Assembly, shared_constants
from rtc.calibration.sensitivity.gradient import Gradient
from rtc.calibration.sensitivity.result import Cost, Sensitivity
from rtc.calibration.sensitivity.shapes import batch_size, multiply_accumulates
from rtc.calibration.sensitivity.tally import Reference, Results, Tally
from rtc.compiler.core.arrays import Array, Float64Array
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import ModelError, first_line
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.outputs import LEAST_PROBABILITY, OutputKind
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.progress import Progress, silent
from rtc.compiler.core.tensors import Shape

_SIGNS = "rtc/signs"
_FEW = 16  # samples that do not tell how much an estimate varies


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
        proto: the float model, (n, …) to (n, classes), as the alternatives were made from.
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
    kind = kind_of(proto, split)
    circuit, results = _Circuit(base, alternatives, kind), Results(kind)
    batches: list[_Batch] = []
    random = np.random.default_rng(seed)
    for start, inputs in split.batches_for(base.batch, circuit.batch):
        outputs, answers = circuit.run(inputs, random)
        base.refuse_not_finite(
            {
                change.float_end: answer.signal
                for change, answer in zip(circuit.changes, answers, strict=True)
            },
            start,
            len(inputs),
        )
        batches.append((results.reference(outputs, split, start), answers))
        progress(results.samples, len(split), f"{len(alternatives)} alternatives")
        if time.perf_counter() - begun > within_s:
            break
    tallies = _tallies([alternative.precision for alternative in alternatives], batches)
    return Sensitivity(
        engine="fast",
        model=digest(proto),
        samples=results.samples,
        seed=seed,
        rows=tuple(map(results.row, alternatives, tallies)),
        cost=Cost(circuit.passes, time.perf_counter() - begun),
    )


class _Answer(NamedTuple):
    """What one alternative does to each sample of a batch.

    Attributes:
        signal, noise: powers at the layer, (n,).
        apart, whole: Σ s_c² and (Σ s_c)² of the signs and of the Fisher information, (2, n).
        margin: the change of the margin, (n,).
    """

    signal: Array
    noise: Array
    apart: Array
    whole: Array
    margin: Array


_Batch = tuple[Reference, list[_Answer]]  # an answer of each alternative


def _tallies(precisions: Sequence[Precision], batches: Sequence[_Batch]) -> list[Tally]:
    """What the batches come to for each alternative, given its precision."""
    squares = _blended(
        precisions,
        np.concatenate([[answer.apart for answer in answers] for _, answers in batches], axis=-1),
        np.concatenate([[answer.whole for answer in answers] for _, answers in batches], axis=-1),
    )
    tallies, done = [Tally() for _ in precisions], 0
    for reference, answers in batches:
        here = squares[..., done : done + len(reference.power)]
        done += len(reference.power)
        for tally, answer, (noise, fisher) in zip(tallies, answers, here, strict=True):
            tally.at_layer(answer.signal, answer.noise)
            tally.predicted(reference, noise, fisher / 2, answer.margin)
    return tallies


def _blended(
    precisions: Sequence[Precision], apart: Float64Array, whole: Float64Array
) -> Float64Array:
    """Between two estimates of the same figures: one steady and biased, one neither.

    Empirical Bayes (Efron & Morris, JASA 70 (1975) 311-319). With σ² the variance of the log of
    `whole`'s mean, and τ² that of the bias from layer to layer, which is what the logs of both
    means differ by in all layers of a precision beyond their σ², `whole` weighs τ² / (τ² + σ²).

    Args:
        precisions: of each alternative.
        apart: the steady one, (alternatives, 2, n).
        whole: the other.
    """
    count = apart.shape[-1]
    if count < _FEW:
        return apart
    with np.errstate(all="ignore"):  # layers that change nothing, or give what is not finite
        difference = np.log(whole.mean(axis=-1) / apart.mean(axis=-1))
        variance = whole.var(axis=-1, ddof=1) / whole.mean(axis=-1) ** 2 / count
        usable = np.isfinite(difference) & np.isfinite(variance)
        beyond = np.where(usable, difference**2 - variance, 0.0)
        weight = np.zeros_like(beyond)
        for precision in set(precisions):
            own = np.array([each is precision for each in precisions])
            bias = beyond[own].sum(axis=0) / np.maximum(1, usable[own].sum(axis=0))
            bias = np.maximum(0.0, bias)
            weight[own] = np.where(usable[own], bias / (bias + variance[own]), 0.0)
        return apart + np.nan_to_num(weight)[..., None] * (whole - apart)


class _Circuit:
    """One session: the float model, each layer in its alternatives, and three gradients.

    Attributes:
        changes: where each alternative differs.
        batch: samples for each run.
        passes: multiply-accumulates in passes of the float model.
    """

    def __init__(
        self, base: FloatGraph, alternatives: Sequence[Alternative], kind: OutputKind
    ) -> None:
        self.changes = [Difference(base, alternative) for alternative in alternatives]
        self._classes = _known(base, base.logits)[-1]
        part = Assembly(base.model.opset_import)
        part.take_float(base)
        errors = [self._error(part, change, index) for index, change in enumerate(self.changes)]
        ends = [change.float_end for change in self.changes]
        gradient = Gradient(base, part)
        vectors = _vectors(part, base.logits, self._classes, kind)
        back = [gradient.back(v, ends) for v in vectors]
        self._outputs = [base.logits]
        for alternative, error, end in zip(alternatives, errors, ends, strict=True):
            products = (part.node("Mul", [gradients[end], error]) for gradients in back)
            signs, fisher, margin = (
                _by_channel(part, base, product, end, alternative.layer) for product in products
            )
            self._outputs += [part.power(end), part.power(error)]
            self._outputs += [part.power(signs), part.power(fisher)]
            self._outputs += [part.sum_of_samples(each) for each in (signs, fisher, margin)]
        work = multiply_accumulates(base)
        self.passes = part.work(work) / max(1, sum(work.values()))
        self.batch = batch_size(base, [name for node in base.graph.node for name in node.output])
        self._input = base.graph.input[0].name
        self._constants = shared_constants(base, [part])
        proto = emulate_half(part.model(base, self._outputs, {_SIGNS: ("batch", self._classes)}))
        self._session = session(proto, frugal=True)

    def _error(self, part: Assembly, change: Difference, index: int) -> str:
        names = part.take(change, [change.end], prefix=f"alternative/{index}/")
        return part.error(names[change.end], change.float_end)

    def run(self, inputs: Array, random: np.random.Generator) -> tuple[Array, list[_Answer]]:
        """The output, and what each alternative does."""
        signs = random.choice(np.array([-1, 1], np.float32), (len(inputs), self._classes))
        feeds = {**self._constants, self._input: inputs, _SIGNS: signs}
        try:
            outputs, *rest = self._session.run(self._outputs, feeds)
        except Exception as cause:  # the runtime's errors have no other class in common
            raise ModelError(
                "the fast sensitivity analysis cannot run this graph's gradients",
                seen=first_line(cause),
                fix="use the exact one",
                id="no-gradient",
            ) from cause
        answers = []
        for at in range(0, len(rest), 7):
            signal, noise, *squares, signs, fisher, margin = rest[at : at + 7]
            apart = np.array(squares, np.float64)
            whole = np.array([signs, fisher], np.float64) ** 2
            answers.append(_Answer(signal, noise, apart, whole, margin))
        return outputs, answers


def _known(base: FloatGraph, tensor: str) -> Shape:
    if tensor not in base.shapes:
        raise ModelError(
            "the fast sensitivity analysis must know the shape of what layers give",
            where=f"tensor {tensor}",
            fix="use the exact one",
            id="no-gradient",
        )
    return base.shapes[tensor]


def _by_channel(part: Assembly, base: FloatGraph, product: str, end: str, layer: str) -> str:
    """A product in the shape of a layer's output, added up to (samples, channels).

    Samples may stand on another axis than the first, or several rows in a row be one's (the
    windows of an image).
    """
    shape = _known(base, end)
    channel = len(shape) - 1 if op_of(base.nodes[layer]) in ("Gemm", "MatMul") else 1
    axes = [i for i, size in enumerate(shape) if size % base.mark == 0 and i != channel]
    if not axes:
        raise ModelError(
            "the fast sensitivity analysis finds no batch in a layer's output",
            where=f"layer {layer}",
            seen=" × ".join(map(str, shape)),
            fix="use the exact one",
            id="no-gradient",
        )
    batch = next((i for i in axes if shape[i] == base.mark), axes[0])
    rest = [i for i in range(len(shape)) if i not in (batch, channel)]
    summed = part.summed(product, rest)
    if channel < batch:
        summed = part.node("Transpose", [summed], perm=[1, 0])
    rows = shape[batch] // base.mark
    if rows == 1:
        return summed
    apart = part.constant(np.array([-1, rows, shape[channel]], np.int64))
    return part.summed(part.node("Reshape", [summed, apart]), [1])


def _vectors(part: Assembly, output: str, classes: int, kind: OutputKind) -> Sequence[str]:
    """The three vectors at the model's output."""
    import onnx

    if kind is not OutputKind.PROBABILITIES:
        return _of_logits(part, output, classes)
    least = part.constant(np.array(LEAST_PROBABILITY, np.float32))
    bounded = part.node("Max", [output, least])
    counts = part.node("Cast", [part.node("Greater", [output, least])], to=onnx.TensorProto.FLOAT)
    slope = part.node("Div", [counts, bounded])  # of ln max(p, least)
    vectors = _of_logits(part, part.node("Log", [bounded]), classes)
    return [part.node("Mul", [vector, slope]) for vector in vectors]


def _of_logits(part: Assembly, logits: str, classes: int) -> Sequence[str]:
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
