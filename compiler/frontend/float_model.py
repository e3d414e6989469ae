"""The front: everything that is done once, whatever the target.

source → the recipe's passes → the float model; observe → the ranges of its tensors

Once the model is an ONNX graph its axes are settled on the samples (`rtc.compiler.frontend.axes`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rtc.compiler.core.data import Splits, WholeBatches
from rtc.compiler.core.errors import DataError, ModelError
from rtc.compiler.core.hashing import canonical, file_digest
from rtc.compiler.core.naming import REFERENCE, load_object
from rtc.compiler.core.passes import Pass, PassContext, Statistics, TensorRange
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.progress import Listener, Progress
from rtc.compiler.core.results import CertificateRow
from rtc.compiler.core.unit import Level, Unit
from rtc.compiler.execution.certified_pass import Passed, run_pass
from rtc.compiler.execution.stages import Files, Stages, versions
from rtc.compiler.frontend.axes import Settled, settle
from rtc.compiler.frontend.model_files import model_digests, read_model_files
from rtc.compiler.frontend.samples import labelled
from rtc.compiler.frontend.source import classes_of, onnx_unit, source_unit
from rtc.compiler.recipe.schema import Recipe
from rtc.compiler.recipe.source_code import referenced_code, with_code

if TYPE_CHECKING:
    from rtc.passes.quantise.assign_precision import AssignPrecision


@dataclass(frozen=True)
class Front:
    """What every target starts from.

    Attributes:
        model: the float ONNX model, the baseline of every accuracy.
        eager: the last PyTorch model, the baseline of every latency; None for an ONNX recipe.
        statistics: ranges of the tensors that may be quantised.
        details: what each pass found, by name, in the order they ran.
        certificates: of every pass.
        incoming: the ONNX model before the first graph pass that changed what it computes; None
            where none did.
        notes: what a reader must know of the model's axes.
    """

    model: Unit
    eager: Unit | None
    statistics: Statistics
    details: tuple[tuple[str, Mapping[str, Any]], ...]
    certificates: tuple[CertificateRow, ...]
    incoming: Unit | None = None
    notes: tuple[str, ...] = ()


def make_front(recipe: Recipe, data: Splits, stages: Stages, made: Unit | None = None) -> Front:
    """Run the source, every pass of the recipe, and the observers.

    `made` is what `factory_model` gave, where it was asked already.
    """
    _check_references(recipe)
    unit = _source(recipe, data, stages, made or factory_model(recipe, data))
    training = PassContext(data=labelled(data), seed=recipe.seed)
    eager: Unit | None = None
    incoming: Unit | None = None
    details: list[tuple[str, Mapping[str, Any]]] = []
    certificates: list[CertificateRow] = []

    def passed(step: Pass, unit: Unit, context: PassContext) -> Passed:
        result = run_pass(step, unit, context, stages)
        details.append((step.name, result.details))
        certificates.extend(result.certificates)
        return result

    for step in (step for step in recipe.passes if step.takes is Level.TORCH):
        eager, unit = unit, passed(step, unit, training).unit
    settled = _settle(recipe, unit, data, stages)
    unit, context = settled.unit, PassContext(whole(data, settled.unit), seed=recipe.seed)
    for step in (step for step in recipe.passes if step.takes is Level.ONNX):
        result = passed(step, unit, context)
        if incoming is None and result.another_function:
            incoming = unit
        unit = result.unit
    _warn_of_dead_channels(unit, stages.listener)
    if recipe.calibration is not None:
        _warn_of_other_samples(data, stages.listener)
    statistics = _observe(recipe, unit, context.data, stages)
    return Front(
        model=unit,
        eager=eager,
        statistics=statistics,
        details=tuple(details),
        certificates=tuple(certificates),
        incoming=incoming,
        notes=settled.notes,
    )


def whole(data: Splits, model: Unit) -> Splits:
    """The samples for a model: of one that fixes its batch, parts of a batch are of no use."""
    return WholeBatches(data, model.fixed_batch) if model.fixed_batch else data


def _warn_of_dead_channels(model: Unit, listener: Listener) -> None:
    """They cost time and have no scale of their own; mostly they tell of a broken training."""
    from rtc.passes.support.layers import dead_channels, weighted_layers
    from rtc.passes.support.onnx_graph import read

    for layer in weighted_layers(read(model)):
        if count := dead_channels(layer):
            listener.warned(
                f"{layer.name}: {count} output channels are dead: all their weights are zero"
            )


def _warn_of_other_samples(data: Splits, listener: Listener) -> None:
    """Samples from elsewhere may be prepared otherwise; ranges from them would be wrong."""
    from rtc.calibration.normalisation import mistake, moments

    split = data.calibration
    wrong = mistake(moments(split), moments(data.test), split.preprocess)
    if wrong is not None:
        listener.warned(
            f"the calibration samples are not like the test samples: {wrong}"
            " (rtc calibration audit tells more)"
        )


def _check_references(recipe: Recipe) -> None:
    """Find every object that a pass names before the first pass has run for minutes.

    Raises:
        RecipeError: there is no such module or attribute.
    """
    for step in recipe.passes:
        for option, value in step.options().items():
            if isinstance(value, str) and REFERENCE.match(value):
                load_object(value, where=f"{step.name}: {option}")


def source_files(recipe: Recipe) -> dict[str, str]:
    """Digests of the model files that a recipe names, and of those that its model names.

    Raises:
        ModelError: as `read_model_files`.
    """
    source = recipe.source
    digests = (
        {source.weights: file_digest(recipe.resolve(source.weights))} if source.weights else {}
    )
    if source.onnx is None:
        return digests
    return model_digests(recipe.resolve(source.onnx), source.onnx)


def factory_model(recipe: Recipe, data: Splits) -> Unit | None:
    """What the recipe's factory makes; None where the model is a file, which its digest names.

    A factory may read weights that no recipe names, so it is called in every compile, and what it
    gave names the model.
    """
    if recipe.source.level is Level.ONNX:
        return None
    return with_code(source_unit(recipe.source, data, recipe.seed, recipe.path.parent))


def _read(recipe: Recipe, data: Splits) -> tuple[Unit, dict[str, str]]:
    """The model that a recipe names, and the digests of the very bytes that it was read from."""
    name = recipe.source.onnx
    if name is None:
        files = source_files(recipe)
        return source_unit(recipe.source, data, recipe.seed, recipe.path.parent), files
    content = read_model_files(recipe.resolve(name))
    return onnx_unit(recipe.resolve(name), content), content.digests(name)


def _source(recipe: Recipe, data: Splits, stages: Stages, made: Unit | None) -> Unit:
    source = recipe.source
    inputs = {
        "source": source.model_dump(mode="json"),
        "files": source_files(recipe),
        "model": made.digest if made else "",
        "seed": recipe.seed,
        "data": data.digest,
        "code": referenced_code([source.factory, source.options]),
        "versions": versions(("onnx",) if source.level is Level.ONNX else ("torch",)),
    }

    def work(_: Progress) -> tuple[Files, str]:
        unit, files = _read(recipe, data) if made is None else (made, source_files(recipe))
        if files != inputs["files"]:
            raise ModelError("the model changed while it was read", id="model-changed")
        check_samples(unit, data, data.classes)
        shape = " × ".join(str(size) for size in unit.signature.inputs[0].shape)
        return unit.to_files(), f"{source.onnx or source.factory}, input {shape}"

    return Unit.from_files(stages.run("source", inputs, work))


def _settle(recipe: Recipe, unit: Unit, data: Splits, stages: Stages) -> Settled:
    """The model with its axes settled on test samples; the listener is told of what is lost."""
    inputs = {
        "model": unit.digest,
        "data": data.digest,
        "batch": recipe.batch,
        "versions": versions(("numpy", "onnx", "onnxruntime")),
    }

    def work(_: Progress) -> tuple[Files, str]:
        settled = settle(unit, data.test, recipe.batch)
        _check_classes(settled.unit, data.classes)
        _check_batches(settled.unit, data)
        shape = " × ".join(str(size) for size in settled.unit.signature.inputs[0].shape)
        return settled.to_files(), f"input {shape}"

    settled = Settled.from_files(stages.run("axes", inputs, work))
    for note in settled.notes:
        stages.listener.warned(note)
    return settled


def _check_batches(unit: Unit, data: Splits) -> None:
    least, seen = unit.fixed_batch or 1, len(data.calibration)
    if least > 1 and seen < least:
        raise DataError(
            "the calibration samples do not fill a batch, and the model's is fixed",
            where="data.split.calibration",
            seen=str(seen),
            expected=f"at least {least}",
            fix="give a larger fraction to calibration, or export a dynamic batch axis",
            id="too-few-samples",
        )


def _check_classes(unit: Unit, classes: int) -> None:
    width = classes_of(unit.signature.outputs[0])
    if isinstance(width, int) and classes > width:
        raise DataError(
            "the data has more classes than the model",
            where="data.classes",
            seen=str(classes),
            expected=f"at most {width}",
            id="classes",
        )


def check_samples(unit: Unit, data: Splits, classes: int) -> None:
    """Find out before the work that the samples do not fit the model, or cannot be scored.

    Raises:
        DataError: another shape or more classes than the model has, or no labels.
    """
    _check_classes(unit, classes)
    if data.test.labels is None:
        raise DataError("the samples have no labels", fix="accuracy needs them", id="no-labels")
    spec = unit.signature.inputs[0]
    seen, wanted = data.test.inputs(0, 1).shape[1:], spec.shape[1:]
    fits = len(seen) == len(wanted) and all(
        isinstance(size, str) or size == given for size, given in zip(wanted, seen, strict=True)
    )
    if not fits:
        raise DataError(
            "the samples do not have the shape that the model takes",
            where=spec.name,
            seen=" × ".join(map(str, seen)),
            expected=" × ".join(map(str, wanted)),
            fix="see data.preprocess.layout, or the model's input",
            id="sample-shape",
        )


def observing(recipe: Recipe) -> AssignPrecision:
    """The pass that says, by its `needs`, what is observed of the recipe's model."""
    from rtc.passes.quantise.assign_precision import AssignPrecision

    options = recipe.precision
    return AssignPrecision(
        variant=Variant.MIX, observer=options.observer, observers=dict(options.observers)
    )


def _observe(recipe: Recipe, model: Unit, data: Splits, stages: Stages) -> Statistics:
    from rtc.calibration.collect import collect
    from rtc.calibration.observers import make_observer

    wanted = observing(recipe).needs(model)
    inputs = {
        "model": model.digest,
        "wanted": sorted((size.tensor, size.kind) for size in wanted),
        "data": data.digest,
        "versions": versions(("numpy", "onnx", "onnxruntime")),
    }

    def work(progress: Progress) -> tuple[Files, str]:
        ranges = collect(model.onnx.proto, wanted, data.calibration, progress)
        content = {name: asdict(seen) for name, seen in ranges.items()}
        count = len(data.calibration) // data.calibration.whole * data.calibration.whole
        summary = f"{len(ranges)} tensors over {count} samples"
        return {"ranges.json": canonical(content)}, summary

    by = [make_observer(kind) for kind in sorted({size.kind for size in wanted})]
    ranges = json.loads(stages.run("observe", inputs, work, by=by)["ranges.json"])
    return {name: TensorRange(**fields) for name, fields in ranges.items()}
