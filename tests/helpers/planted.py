"""ResNet-20 and MobileNetV2 that INT8 agrees with, and faults that break them in INT8 alone.

The networks have random weights, their normalisation is set to the statistics of the samples, and
their last layer is fitted to ten classes of images (a blurred pattern each, under noise) by ridge
regression: their logits have margins, as those of a trained network.

Each fault leaves a float model that computes its classes without trouble. All but `broken_scale`
are planted in the weights; `broken_scale` is planted in the observed ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rtc.calibration.collect import collect
from rtc.calibration.oracle import Oracle, with_outputs
from rtc.compiler.building.builder import Builder
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.passes import PassContext, TensorRange
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.compiler.diagnose.session import Session
from rtc.compiler.documents import strict_yaml
from rtc.compiler.execution.stages import Stages
from rtc.compiler.lowering.job import Job
from rtc.compiler.recipe.schema import parse_recipe
from rtc.compiler.storage.store import Store
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.targets import loader

CLASSES = 10
RECIPE = b"""
recipe: 1
name: planted
version: 1.0.0
source: {onnx: model.onnx}
data: {npz: samples.npz, classes: 10}
precision: {observer: percentile}
"""


@dataclass(frozen=True)
class Data:
    """Ten classes of images (3, 32, 32)."""

    train: Split
    calibration: Split
    test: Split
    digest: str = "planted"


@dataclass(frozen=True)
class Patient:
    """A float model, its samples, and changes to what was observed of them, by tensor."""

    unit: Unit
    data: Data
    ranges: Mapping[str, Callable[[TensorRange], TensorRange]] = field(default_factory=dict)

    def session(self, folder: Path, backend: str = "onnxruntime") -> Session:
        """The INT8 candidate of the model, on this machine's CPU."""
        wanted = AssignPrecision(observer="percentile").needs(self.unit)
        seen = collect(self.unit.onnx.proto, wanted, self.data.calibration)
        seen |= {name: change(seen[name]) for name, change in self.ranges.items()}
        job = Job(
            parse_recipe(strict_yaml.parse(RECIPE, "planted"), folder / "recipe.yaml"),
            self.unit,
            PassContext(self.data, statistics=seen),
            BuildRequest(loader.profile("cpu"), (1, 64, 64), threads=1),
            Stages(Store(folder / "store"), Nobody()),
        )
        builder = Builder.of(job, loader.backend(backend))
        context = replace(job.context, target=builder.writer.target)
        plan = (
            AssignPrecision(variant=Variant.INT8, observer="percentile")
            .apply(self.unit, context)
            .plan
        )
        return Session(builder, plan)


def images(seed: int = 0) -> Data:
    """Samples to fit the last layer on, to calibrate with and to test with."""
    draw = np.random.default_rng(seed)
    patterns = np.kron(draw.normal(size=(CLASSES, 3, 8, 8)), np.ones((4, 4)))

    def split(name: str, count: int) -> Split:
        labels = np.arange(count) % CLASSES
        raw = patterns[labels] + 0.2 * draw.normal(size=(count, 3, 32, 32))
        return Split(name, raw.astype(np.float32), labels, Preprocess())

    return Data(split("train", 320), split("calibration", 64), split("test", 100))


def healthy(factory: str, options: Mapping[str, object], data: Data) -> Patient:
    """A network of rtc's, normalised and fitted to the data, as ONNX with folded normalisation."""
    import torch

    from rtc.compiler.core.unit import TorchModel
    from rtc.passes.graph.eliminate_identity import EliminateIdentity
    from rtc.passes.graph.fold_batchnorm import FoldBatchnorm
    from rtc.passes.graph.fold_constants import FoldConstants
    from rtc.passes.torch.export_onnx import ExportOnnx
    from rtc.passes.torch.torch_module import build, pack, signature
    from rtc.recipes.models.mobilenet import ConvUnit, InvertedResidual

    model = TorchModel(factory, {"classes": CLASSES, **options}, b"")
    module = build(model, seed=0)
    inputs = torch.from_numpy(data.train.inputs())
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # the mean over all batches
        if isinstance(part, ConvUnit):
            # Most values then lie where ReLU6 is linear: deep random networks without sums are
            # chaotic otherwise, and make any noise the whole output.
            torch.nn.init.constant_(part.bn.bias, 2.0)
        if isinstance(part, InvertedResidual) and part.add is not None:
            # The classes hang on every branch, so that one that is lost shows.
            torch.nn.init.constant_(part.bn.weight, 3.0)
    with torch.no_grad():
        module.train()(inputs)
        features: list[torch.Tensor] = []
        hook = module.fc.register_forward_hook(lambda _, given, __: features.append(given[0]))
        module.eval()(inputs)
        hook.remove()
        weight, bias = ridge(features[0].double().numpy(), data.train.labels)
        module.fc.weight.copy_(torch.from_numpy(weight))
        module.fc.bias.copy_(torch.from_numpy(bias))
    unit = Unit(pack(module, model), signature(module, data.train))
    for step in (ExportOnnx(), EliminateIdentity(), FoldConstants(), FoldBatchnorm()):
        unit = step.apply(unit, PassContext(data)).unit
    return Patient(unit, data)


def ridge(features: Array, labels: Array) -> tuple[Array, Array]:
    """Weights (classes, features) and bias of ridge regression on ten times one-hot classes."""
    centre = features.mean(axis=0)
    x, y = features - centre, 10 * np.eye(CLASSES)[labels]
    gram = x.T @ x
    damped = gram + np.eye(len(gram)) * np.trace(gram) / len(gram) * 0.1
    weight = np.linalg.solve(damped, x.T @ (y - y.mean(axis=0))).T
    return weight, y.mean(axis=0) - weight @ centre


class Editor:
    """A model whose weights are changed in place, by layer."""

    def __init__(self, patient: Patient) -> None:
        import onnx

        self.patient = patient
        self.model = onnx.load_model_from_string(patient.unit.onnx.proto)
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.constants = {each.name: each for each in self.model.graph.initializer}

    def change(self, layer: str, index: int, how: Callable[[Array], None]) -> None:
        """Change the weight (index 1) or the bias (2) of a layer, in place."""
        import onnx

        constant = self.constants[self.nodes[layer].input[index]]
        values = onnx.numpy_helper.to_array(constant).copy()
        how(values)
        constant.CopyFrom(onnx.numpy_helper.from_array(values, constant.name))

    def weight(self, layer: str) -> Array:
        import onnx

        return onnx.numpy_helper.to_array(self.constants[self.nodes[layer].input[1]])

    def done(self) -> Patient:
        unit = Unit(OnnxModel(self.model.SerializeToString()), self.patient.unit.signature)
        return replace(self.patient, unit=unit)


def outlier_channel(patient: Patient, makers: str, readers: str, by: float = 1000.0) -> Patient:
    """Channel 1 that some layers make ×1000, and its readers' weights for it ÷1000."""
    edit = Editor(patient)
    for layer in makers.split():
        edit.change(layer, 1, lambda weight: scale(weight[1:2], by))
        edit.change(layer, 2, lambda bias: scale(bias[1:2], by))
    for layer in readers.split():
        edit.change(layer, 1, lambda weight: scale(weight[:, 1], 1 / by))
    return edit.done()


def dead_channel(patient: Patient, maker: str, reader: str, level: float = 0.0) -> Patient:
    """Channel 1 carries nothing: zero weights, its bias is its output, and nothing reads it.

    At level 0 that is all; at another, the constant is that many times the layer's own range.
    """
    top = level * peak(patient, maker)
    edit = Editor(patient)
    edit.change(maker, 1, lambda weight: scale(weight[1:2], 0.0))
    edit.change(maker, 2, lambda bias: bias[1:2].fill(top))
    edit.change(reader, 1, lambda weight: scale(weight[:, 1], 0.0))
    return edit.done()


def broken_scale(patient: Patient, tensor: str, by: float) -> Patient:
    """The observed range of the tensor that a node makes, times `by`."""
    node = Editor(patient).nodes.get(tensor)
    name = node.output[0] if node is not None else tensor

    def wrong(seen: TensorRange) -> TensorRange:
        limit = None if seen.limit is None else seen.limit * by
        return replace(seen, low=seen.low * by, high=seen.high * by, limit=limit)

    return replace(patient, ranges={name: wrong})


def lifted_branch(patient: Patient, branch: str, reader: str) -> Patient:
    """A constant of 1000 times its range on channel 1 of a branch; the sum's only reader, a 1×1
    convolution, takes it away again by its bias."""
    top = 1000 * peak(patient, branch)
    edit = Editor(patient)
    column = edit.weight(reader)[:, 1].reshape(-1) * top
    edit.change(branch, 2, lambda bias: shift(bias[1:2], top))
    edit.change(reader, 2, lambda bias: shift(bias, -column))
    return edit.done()


def opposed_branches(patient: Patient, branch: str, shortcut: str) -> Patient:
    """A constant of 1000 times a branch's range on its channel 1, its negative on the other's."""
    top = 1000 * peak(patient, branch)
    edit = Editor(patient)
    edit.change(branch, 2, lambda bias: shift(bias[1:2], top))
    edit.change(shortcut, 2, lambda bias: shift(bias[1:2], -top))
    return edit.done()


def scale(values: Array, by: float) -> None:
    values *= by


def shift(values: Array, by: Array | float) -> None:
    values += by


def peak(patient: Patient, layer: str) -> float:
    """The largest magnitude in a layer's output."""
    name = Editor(patient).nodes[layer].output[0]
    with Oracle(with_outputs(patient.unit.onnx.proto, [name]), [name]) as oracle:
        return float(np.abs(oracle.run(patient.data.calibration.inputs())[name]).max())
