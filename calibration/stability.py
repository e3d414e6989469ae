"""How far scales depend on which samples were taken, and how many are enough.

One walk: beside the observer of all samples, each of up to 16 blocks of samples has its own. The
blocks' scales are resampled (bootstrap, Efron 1979) for the uncertainty of a scale; the observer of
all is read at 1/16, 1/8, … of the samples for the curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rtc.calibration.observers import Observer, make_observer
from rtc.calibration.oracle import Oracle, with_outputs
from rtc.compiler.core.data import Split, filled
from rtc.compiler.core.passes import Observation
from rtc.compiler.core.progress import Progress, silent

_BLOCKS = 16
_DRAWS = 500
_BATCH = 8
LEAST = 16  # samples: as many as there are blocks to compare scales over
TYPICAL = 0.05
"""A scale within 5 % is as good as any: 0.4 dB of quantisation noise. Half of them have to be."""
WORST = 0.1
"""No scale may be less certain than this: 0.8 dB."""


@dataclass(frozen=True)
class Stability:
    """What a walk found.

    Attributes:
        samples: how many it went over.
        spread: by tensor, half the 95 % interval of its scale, relative to it.
        curve: (samples, the error of the scales then, relative to the final ones: median, worst).
    """

    samples: int
    spread: Mapping[str, float]
    curve: Sequence[tuple[int, float, float]]

    @property
    def typical(self) -> float:
        """The spread that half of the scales keep within."""
        return float(np.median(list(self.spread.values()))) if self.spread else 0.0

    @property
    def worst(self) -> tuple[str, float]:
        """The least certain scale, and its spread."""
        return max(self.spread.items(), key=lambda item: item[1], default=("", 0.0))

    @property
    def enough(self) -> int | None:
        """The samples that both bounds ask for; None where too few were seen to tell.

        A spread falls with the square root of the samples. This is the one word on how many are
        enough: whoever says that samples are too few, or enough, goes by it.
        """
        if self.samples < LEAST:
            return None
        beyond = max(self.typical / TYPICAL, self.worst[1] / WORST)
        return max(LEAST, int(np.ceil(self.samples * beyond**2)))


def stability(
    proto: bytes,
    observations: frozenset[Observation],
    split: Split,
    progress: Progress = silent,
    seed: int = 0,
) -> Stability:
    """Walk over the split as `collect` does, which checks the samples; memory is 17 observers'.

    Blocks keep their size where a model fixes its batch: what does not fill one is in it again.
    """
    kinds = {observation.tensor: observation.kind for observation in observations}
    count = len(split)
    size = max(1, -(-count // _BLOCKS))
    whole = {tensor: make_observer(kind) for tensor, kind in kinds.items()}
    parts: dict[str, list[float]] = {tensor: [] for tensor in kinds}
    history: list[tuple[int, dict[str, float]]] = []
    inner = [tensor for tensor in kinds if tensor in _computed(proto)]
    with Oracle(with_outputs(proto, inner), inner or None) as oracle:
        batch = oracle.batch or _BATCH
        for start in range(0, count, size):
            block = {tensor: make_observer(kind) for tensor, kind in kinds.items()}
            end = min(start + size, count)
            for at in range(start, end, batch):
                inputs = filled(split.inputs(at, min(at + batch, end)), oracle.batch or 1)
                values = {oracle.input_name: inputs, **oracle.run(inputs)}
                for tensor in kinds:
                    whole[tensor].update(values[tensor])
                    block[tensor].update(values[tensor])
            for tensor, observer in block.items():
                parts[tensor].append(_span(observer))
            history.append((end, {tensor: _span(each) for tensor, each in whole.items()}))
            progress(end, count, f"{len(kinds)} tensors")
    random = np.random.default_rng(seed)
    return Stability(
        count, {name: _spread(spans, random) for name, spans in parts.items()}, _curve(history)
    )


def _computed(proto: bytes) -> set[str]:
    import onnx

    return {n for node in onnx.load_model_from_string(proto).graph.node for n in node.output}


def _span(observer: Observer) -> float:
    """The width of a range; an affine scale is a 255th of it."""
    interval = observer.result("")
    return interval.high - interval.low


def _spread(spans: Sequence[float], random: np.random.Generator) -> float:
    """Half the 95 % interval of the blocks' mean scale, relative to it."""
    if not np.mean(spans):
        return 0.0  # of a tensor that is zero throughout
    draws = random.choice(np.asarray(spans), (_DRAWS, len(spans))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float((high - low) / 2 / np.mean(spans))


def _curve(
    history: Sequence[tuple[int, Mapping[str, float]]],
) -> tuple[tuple[int, float, float], ...]:
    final = history[-1][1]
    points = []
    for samples, spans in history:
        errors = [abs(spans[name] / final[name] - 1) for name in final]
        points.append((samples, float(np.median(errors)), float(max(errors))))
    return tuple(points)
