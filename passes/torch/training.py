"""One training loop, for every pass that trains: SGD over index tensors, through accelerate.

Seeded: the same unit, data, schedule and seed give the same weights, byte for byte, on one machine.
That is why the number of CPU threads is an option: it decides in which order sums are taken.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from rtc.compiler.core.arrays import Int64Array
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import DataError, GateError
from rtc.compiler.core.outputs import (
    LEAST_PROBABILITY,
    OutputKind,
    log_probabilities,
    output_kind,
)
from rtc.compiler.core.passes import PassContext
from rtc.passes.torch.torch_module import need

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Loss = Callable[["nn.Module", "Tensor", "Tensor"], "Tensor"]
"""From the module, inputs (N, …) and labels (N,) to a scalar."""

_EVALUATION_BATCH = 256
_TOLD_BY = 32  # samples that tell what a module's output is

SAMPLING_MARGIN = 0.02
"""What a top-1 drop may differ by between two sets of samples, as a fraction.

Of n samples where a fraction f changes its verdict, the drop has a standard error of √(f / n); with
f = 0.03 and n = 256, two of them are 0.02.
"""


@dataclass(frozen=True)
class Schedule:
    """How to train: the options that every pass which trains has in common."""

    epochs: Annotated[int, Field(ge=1, description="Times over the training split.")] = 10
    lr: Annotated[float, Field(gt=0, description="Learning rate at the start.")] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1, description="Momentum of SGD.")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty.")] = 0.0
    batch: Annotated[int, Field(ge=1, description="Samples per step.")] = 64
    decay: Annotated[
        Literal["constant", "step", "cosine"],
        Field(description="step: lr ÷ 10 after 1/2 and 3/4 of the steps; cosine: down to 0."),
    ] = "cosine"
    threads: Annotated[
        int, Field(ge=1, description="CPU threads; another number gives other weights.")
    ] = 1
    compute: Annotated[
        Literal["fp32", "bf16"],
        Field(description="bf16: layers compute in bfloat16 (autocast); the weights stay fp32."),
    ] = "fp32"

    def factor(self, progress: float) -> float:
        """What multiplies `lr` after the fraction `progress` of all steps."""
        if self.decay == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        if self.decay == "step":
            return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
        return 1.0


@dataclass(frozen=True)
class Score:
    """Quality on a split: top-1 as a fraction, cross-entropy in nats.

    `seconds` is the time to preprocess and classify all `samples`.
    """

    top1: float
    loss: float
    seconds: float
    samples: int

    def __str__(self) -> str:
        return f"{100 * self.top1:.1f} %"


@dataclass(frozen=True)
class History:
    """Validation top-1 (fraction) and loss (nats) after each epoch, and the time of it all."""

    accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    seconds: float

    def curve(self, subject: str) -> dict[str, Any]:
        """As JSON types, for a pass's details."""
        return {
            "subject": subject,
            "accuracy": list(self.accuracy),
            "loss": list(self.loss),
            "seconds": self.seconds,
        }


def kind_of(module: nn.Module, split: Split) -> OutputKind:
    """What a module's output is, by its values for the first samples of a split."""
    import torch

    mode = module.training
    with torch.no_grad():
        outputs = module.eval()(torch.from_numpy(split.head(_TOLD_BY).inputs()))
    module.train(mode)
    return output_kind(rows_of(outputs).numpy())


def rows_of(outputs: Tensor) -> Tensor:
    """Outputs as (N, classes), without the axes of 1 that a module may leave besides."""
    return outputs.flatten(1)


def logits_of(outputs: Tensor, kind: OutputKind) -> Tensor:
    """As `as_logits` of their rows, with gradients."""
    outputs = rows_of(outputs)
    if kind is not OutputKind.PROBABILITIES:
        return outputs
    return outputs.clamp_min(LEAST_PROBABILITY).log()


def cross_entropy(module: nn.Module, inputs: Tensor, labels: Tensor, kind: OutputKind) -> Tensor:
    """Mean cross-entropy in nats between the module's distribution and the labels."""
    from torch.nn import functional

    return functional.cross_entropy(logits_of(module(inputs).float(), kind), labels)


def fit(
    module: nn.Module,
    schedule: Schedule,
    ctx: PassContext,
    *,
    where: str,
    loss: Loss | None = None,
    while_evaluating: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> History:
    """Train `module` in place on the training split; it is left on the CPU, in evaluation mode.

    The loss is the cross-entropy with the labels where none is given. Validation is on the
    calibration split, never on the test split. `where` names the pass, for an
    error; `while_evaluating` is entered around each evaluation.

    Raises:
        DataError: a split is empty or has no labels.
        GateError: the loss is not finite.
    """
    need("torch")
    need("accelerate")
    train, validation = ctx.data.train, ctx.data.calibration
    for split in (train, validation):
        _labels(split)
    loss = loss or partial(cross_entropy, kind=kind_of(module, validation))
    begun, scores = time.perf_counter(), list[Score]()
    with reproducible(ctx.seed, schedule.threads), _on_device(module, schedule, len(train)) as loop:
        for epoch in range(1, schedule.epochs + 1):
            total = loop.epoch(shuffled(train, schedule.batch, loop.device), loss)
            _refuse_divergence(total, epoch, schedule, where)
            loop.model.eval()
            with while_evaluating():
                scores.append(evaluate(loop.model, validation, loop.device))
            found = f"epoch {epoch}/{schedule.epochs} · {scores[-1]} · loss {scores[-1].loss:.3f}"
            ctx.progress(epoch, schedule.epochs, found)
    seconds = round(time.perf_counter() - begun, 3)
    return History(tuple(s.top1 for s in scores), tuple(s.loss for s in scores), seconds)


@dataclass(frozen=True)
class _Loop:
    """A module on the device that it is trained on, and what moves its weights."""

    model: nn.Module
    accelerator: Any
    optimizer: Any
    decay: torch.optim.lr_scheduler.LambdaLR
    half: bool

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    def epoch(self, samples: Iterable[tuple[Tensor, Tensor]], loss: Loss) -> float:
        """Train on every sample; the sum of the losses."""
        self.model.train()
        return float(sum(self._step(inputs, labels, loss) for inputs, labels in samples))

    def _step(self, inputs: Tensor, labels: Tensor, loss: Loss) -> Tensor:
        import torch

        # Not accelerate's own: it takes one precision for the life of a process.
        with torch.autocast(inputs.device.type, torch.bfloat16, self.half):
            step_loss = loss(self.model, inputs, labels)
        self.optimizer.zero_grad()
        self.accelerator.backward(step_loss)
        self.optimizer.step()
        self.decay.step()
        return step_loss.detach()


@contextmanager
def _on_device(module: nn.Module, schedule: Schedule, samples: int) -> Iterator[_Loop]:
    """`module` where accelerate trains it; back on the CPU where that went well."""
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision="no")
    # Channels last is how a CPU's convolutions read: 1.2 to 1.7 times faster, depthwise most. The
    # move is ours: accelerate takes a copy of a module that it had before for one that is there.
    module.to(accelerator.device).to(memory_format=torch.channels_last)
    sgd, decay = _sgd(module, schedule, samples)
    model, optimizer = accelerator.prepare(module, sgd)
    yield _Loop(model, accelerator, optimizer, decay, schedule.compute == "bf16")
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # it had put autocast into `module`
    module.to("cpu").to(memory_format=torch.contiguous_format)


def evaluate(
    forward: Callable[[Tensor], Tensor], split: Split, device: torch.device | None = None
) -> Score:
    """Top-1 and loss of `forward` over a split.

    Raises:
        DataError: the split is empty or has no labels.
    """
    import torch

    labels = _labels(split)
    begun = time.perf_counter()
    with torch.no_grad():
        batches = (torch.from_numpy(x).to(device) for x in split.batches(_EVALUATION_BATCH))
        outputs = torch.cat([rows_of(forward(x)).float().cpu() for x in batches]).numpy()
    seconds = time.perf_counter() - begun
    own = np.take_along_axis(
        log_probabilities(outputs, output_kind(outputs)), labels[:, None], axis=1
    )
    return Score(
        top1=float((outputs.argmax(axis=1) == labels).mean()),
        loss=round(-float(own.mean()), 6),
        seconds=round(seconds, 6),
        samples=len(split),
    )


def shuffled(split: Split, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Every sample once, in an order drawn from torch's generator, `batch` at a time."""
    import torch

    labels = _labels(split)
    # In this process and in this order: loader workers would be one more thing to seed.
    for indices in torch.split(torch.randperm(len(split)), batch):
        chosen = indices.numpy()
        inputs = torch.from_numpy(split.preprocess(split.raw[chosen]))
        yield inputs.to(device), torch.from_numpy(labels[chosen]).to(device)


@contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seed torch and pin everything that decides the order of sums; all put back at the end."""
    import torch

    # cuBLAS reads this when it starts, and torch refuses its deterministic mode without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])


def _sgd(
    module: nn.Module, schedule: Schedule, samples: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.LambdaLR]:
    """The optimiser, and what lowers its learning rate step by step."""
    from torch import optim

    sgd = optim.SGD(
        [weight for weight in module.parameters() if weight.requires_grad],
        lr=schedule.lr,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
    )
    steps = schedule.epochs * math.ceil(samples / schedule.batch)
    return sgd, optim.lr_scheduler.LambdaLR(sgd, lambda step: schedule.factor(step / steps))


def _labels(split: Split) -> Int64Array:
    if split.labels is None or not len(split):
        raise DataError(
            "training needs labelled samples",
            where=f"split {split.name}",
            seen="no labels" if len(split) else "no samples",
            id="no-labels",
        )
    return split.labels


def _refuse_divergence(total: float, epoch: int, schedule: Schedule, where: str) -> None:
    if not math.isfinite(total):
        raise GateError(
            f"training diverged in epoch {epoch}",
            where=where,
            seen=f"a loss of {total}",
            fix=f"lower lr (it is {schedule.lr:g})",
            id="diverged",
        )
