"""The sections of a recipe: each key with its type, its default and what it means."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from rtc.compiler.core.data import Preprocess
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import REFERENCE
from rtc.compiler.core.passes import Pass
from rtc.compiler.core.precision import Precision, ResidualPolicy, Variant
from rtc.compiler.core.unit import Level
from rtc.passes.repair.adaround import Adaround
from rtc.passes.repair.correct_bias import CorrectBias
from rtc.passes.support.options import Fraction

MOST_SECONDS = 86400.0  # of a search


def _inside(path: str) -> str:
    """A relative path that stays below the recipe's folder."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or PureWindowsPath(path).drive or ".." in pure.parts:
        raise ValueError("must be relative and stay below the recipe's folder; copy the file there")
    return path


def _distinct(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(items)) < len(items):
        raise ValueError("must name nothing twice")
    return items


def _sane(preprocess: Preprocess) -> Preprocess:
    if not preprocess.mean or not preprocess.std or not all(s > 0 for s in preprocess.std):
        raise ValueError("mean and std must hold a number or one per channel, and std be above 0")
    return preprocess


def _observer(kind: str) -> str:
    from rtc.calibration.observers import is_reference, make_observer

    if is_reference(kind):  # it may lie beside the recipe, which is not looked into yet
        return kind
    try:
        make_observer(kind)
    except RecipeError as error:
        # Only a ValueError reaches the validator's list of errors, which knows the place.
        raise ValueError(
            f"cannot be {kind!r}: {error.what}; {error.fix or error.expected}"
        ) from error
    return kind


ObserverName = Annotated[str, AfterValidator(_observer)]
RelativePath = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_inside)]
ImportReference = Annotated[str, Field(pattern=REFERENCE.pattern)]
Pinned = Annotated[
    Precision,
    BeforeValidator(
        lambda word: Precision.HALF if word == "fp16" else word,
        json_schema_input_type=Literal["fp32", "half", "fp16", "int8"],
    ),
]
_Defaults = BeforeValidator(lambda options: {} if options is None else options)
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of a recipe: frozen, of exact types, without unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class Source(Section):
    """Where the model comes from: exactly one of `factory` and `onnx`."""

    factory: ImportReference | None = None
    """A function that returns a torch.nn.Module, as "package.module:function"."""
    options: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    weights: RelativePath | None = None
    """A safetensors file with the factory's weights, relative to the recipe."""
    onnx: RelativePath | None = None
    """An ONNX file, relative to the recipe."""

    @model_validator(mode="after")
    def _one(self) -> Source:
        if (self.factory is None) == (self.onnx is None):
            raise ValueError("must have exactly one of factory and onnx")
        if self.onnx is not None and (self.weights is not None or self.options):
            raise ValueError("weights and options belong to a factory, and the source is ONNX")
        return self

    @property
    def level(self) -> Level:
        """What kind of model it names."""
        return Level.TORCH if self.onnx is None else Level.ONNX


class SplitFractions(Section):
    """Fractions of the samples; drawn with the recipe's seed, by label, without overlap."""

    train: Fraction = 0.7
    """Fraction to train on; 0 where nothing is trained."""
    calibration: Fraction = 0.1
    """Fraction that quantisation ranges are taken from."""
    test: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Fraction that every accuracy is measured on."""

    @model_validator(mode="after")
    def _sum(self) -> SplitFractions:
        total = self.train + self.calibration + self.test
        if total > 1 + 1e-9:
            raise ValueError(f"fractions must add up to 1 at most, and add up to {total:g}")
        return self


class Data(Section):
    """Samples and labels: exactly one of `dataset` and `npz`."""

    dataset: ImportReference | None = None
    """A function that returns a Dataset, as "package.module:function"."""
    options: dict[str, Any] = {}
    """Keyword arguments of the dataset's function."""
    npz: RelativePath | None = None
    """An .npz file with arrays x (raw samples) and y (labels), relative to the recipe."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes of an .npz file."""
    split: SplitFractions = SplitFractions()
    """How the samples are divided."""
    preprocess: Annotated[Preprocess, AfterValidator(_sane)] | None = None
    """Overrides the dataset's own: (raw * scale - mean) / std."""

    @model_validator(mode="after")
    def _one(self) -> Data:
        if (self.dataset is None) == (self.npz is None):
            raise ValueError("must have exactly one of dataset and npz")
        if (self.npz is None) != (self.classes is None):
            raise ValueError("classes goes with npz: give both or neither")
        if self.npz is not None and self.options:
            raise ValueError("options belong to a dataset's function, and the data is an .npz file")
        return self


class Repairs(Section):
    """What mends a model that is to be quantised, per candidate, between its plan and its Q/DQ."""

    adaround: Annotated[Adaround | None, _Defaults] = None
    """Round weights for the layers' outputs to be nearest, with these options."""
    correct_bias: Annotated[CorrectBias | None, _Defaults, Field(alias="correct-bias")] = None
    """Take the mean error of each INT8 layer out of its bias, with these options."""

    @property
    def steps(self) -> tuple[Pass, ...]:
        """Biases come last: they make up for the weights as these are rounded in the end."""
        return tuple(step for step in (self.adaround, self.correct_bias) if step is not None)


class Calibration(Section):
    """Samples to take quantisation ranges from, where they are not a split of the data."""

    path: RelativePath
    """A folder of images or of .npy and .npz files; preprocessed as the data's own samples."""


Objective = Literal["latency", "accuracy"]


class Search(Section):
    """How long, and for what, plans are searched for the mix."""

    seconds: Annotated[float, Field(ge=1, le=MOST_SECONDS)] | None = None
    """Time to search in, in seconds, for the runtimes of a target to share; `--budget` beats it.
    Where none is given, a minute, or as long as the first three plans of each take."""
    objective: Objective = "latency"
    """What is best: the fastest within the gates, or the most accurate within gates.latency_ms."""
    samples: Annotated[int, Field(ge=1)] = 512
    """Calibration samples that plans are tried on, at most."""
    evidence: Annotated[int, Field(ge=1)] = 64
    """Calibration samples that each layer's loss is taken from, at most."""
    engine: Literal["fast", "exact"] = "fast"
    """How losses are found: to first order in some six passes, or measured, layer by layer."""


class PrecisionOptions(Section):
    """What each layer may compute in."""

    offer: Annotated[tuple[Variant, ...], Field(min_length=1), AfterValidator(_distinct)] = tuple(
        Variant
    )
    """Variants to build and compare; the fastest that passes ships."""
    observer: ObserverName = "mse"
    """How a tensor's range is taken from the calibration samples: a name, or "module:Class"."""
    observers: dict[str, ObserverName] = {}
    """Other observers for what layers read, by layer name or glob: {conv1: entropy, "fc*": mse}."""
    weights: Literal["minmax", "mse"] = "minmax"
    """How the scales of weights are chosen: clip nothing, or what least squared error asks for."""
    granularity: Literal["channel", "tensor"] | None = None
    """A scale for each output channel of a layer's weights, or one for all of them; what each
    target's runtime is fastest with where none is given."""
    min_snr_db: Annotated[float, Field(ge=-200, le=200)] = 20.0
    """The rules run a layer in INT8 at this signal-to-noise ratio or above, in decibels."""
    search: Search | None = Search()
    """How the mix is searched for; null leaves it to the rules."""
    pin: dict[str, Pinned] = {}
    """Precision by layer name or glob: {conv1: half, "/features/*": int8}; fp16 says half too."""
    plan: RelativePath | None = None
    """A plan file to take the mix from instead of deciding it; for the target that it names."""
    ranges: Literal["plain", "segmented"] = "plain"
    """Of the float model, or taken anew for each candidate with all layers before quantised."""
    residuals: dict[str, ResidualPolicy] = {}
    """Policy of residual Adds by name or glob: {"/layer1/*": keep-half}."""
    repairs: Repairs = Repairs()
    """Repairs to run before INT8 is written: {adaround: {}, correct-bias: {}}."""


class Measure(Section):
    """How latency is measured."""

    seconds: Annotated[float, Field(gt=0, le=3600)] = 6.0
    """Time to spend on each measurement, in seconds."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """CPU threads that engines get; 0: as many as they are fastest with, which is tried."""


class Gates(Section):
    """What must hold, or the compile ends with exit code 8."""

    top1_drop: Fraction | None = 0.01
    """Largest drop of top-1 accuracy, as a fraction: against the ONNX model that came in where
    graph passes changed what it computes, against the float model elsewhere."""
    latency_ms: Positive | None = None
    """Largest median latency at the recipe's batch, end to end, in milliseconds."""
    fps: Positive | None = None
    """Smallest throughput at the recipe's batch, end to end, in samples per second."""
    contract: Literal["report", "strict"] = "report"
    """strict: fail when the builder ran a layer in another precision than planned."""
    parity: Fraction | None = 0.98
    """Smallest fraction of samples on which the engine agrees with the float model's top-1."""
    chance: Fraction | None = 0.0
    """By how much the float model's top-1 must exceed guessing beyond doubt, as a fraction; null
    lets a model that only guesses pass."""
    top1: Fraction | None = None
    """Smallest top-1 accuracy of the engine, as a fraction."""
    loss: Positive | None = None
    """Largest mean loss of the engine, its cross entropy in nats."""
