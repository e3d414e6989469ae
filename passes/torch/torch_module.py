"""PyTorch modules from and to data: a factory's name, its options, safetensors and edits.

Nothing is ever unpickled: a checkpoint that is a pickle is refused, not read.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import DataError, MachineError, ModelError, RecipeError, first_line
from rtc.compiler.core.naming import call_object
from rtc.compiler.core.unit import Signature, TensorSpec, TorchModel, Unit
from rtc.passes.support.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn

Activation = Literal[
    "gelu", "hardsigmoid", "hardswish", "hardtanh", "relu", "relu6", "sigmoid", "silu", "tanh"
]
ACTIVATIONS: Mapping[str, str] = {
    "gelu": "GELU",
    "hardsigmoid": "Hardsigmoid",
    "hardswish": "Hardswish",
    "hardtanh": "Hardtanh",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "sigmoid": "Sigmoid",
    "silu": "SiLU",
    "tanh": "Tanh",
}
"""Activations that an edit may name, and their classes in torch.nn."""

_PICKLED = (b"PK\x03\x04", b"\x80")  # torch.save's zip archive, and a bare pickle
_LISTED = 5


def need(module: str) -> None:
    """Import a module that the torch extra installs, without what it says while it is imported.

    Raises:
        MachineError: it cannot be imported; the fix is the command that installs the extra.
    """
    try:
        with quiet():
            importlib.import_module(module)
    except ImportError as cause:
        raise MachineError(
            f"this step needs {module}, which cannot be imported",
            seen=str(cause),
            fix="pip install 'rtc-compiler[torch]'",
            id="missing-extra",
        ) from cause


def build(model: TorchModel, *, seed: int = 0) -> nn.Module:
    """The live module, in evaluation mode; where there are no weights, initialised from `seed`.

    Raises:
        RecipeError: the factory cannot be found, or does not take these options.
        ModelError: the weights are not this module's.
        MachineError: torch, or something that the factory imports, is not installed.
    """
    need("torch")
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = _construct(model)
    for path, name in model.edits:
        replace_activation(module, path, name)
    if model.weights:
        _load(module, read_weights(model.weights, where=model.factory), where=model.factory)
    return module.eval()


def pack(
    module: nn.Module, model: TorchModel, edits: tuple[tuple[str, str], ...] | None = None
) -> TorchModel:
    """`model` with the module's present weights, and with `edits` where given.

    Tensors that share memory are written once each, so that every key of the state is there; a
    build ties them again. Equal weights give equal bytes.

    Raises:
        ModelError: a weight is NaN or infinite.
    """
    from safetensors.torch import save

    # A copy of each: safetensors refuses tensors that share memory or are not contiguous.
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in sorted(module.state_dict().items())
    }
    _refuse_not_finite(state, where=model.factory)
    kept = model.edits if edits is None else edits
    return TorchModel(model.factory, model.options, save(state), kept)


def load_weights_file(path: Path) -> bytes:
    """A safetensors file's bytes, after a check that they can be read and are finite.

    Raises:
        ModelError: a pickle, a truncated file, or a weight that is NaN or infinite.
    """
    content = path.read_bytes()
    refuse_pickle(content, path)
    need("torch")
    read_weights(content, where=str(path))
    return content


def refuse_pickle(
    begins: bytes,
    path: Path,
    wanted: str = "a .safetensors file",
    fix: str = "convert it where you trust it: safetensors.torch.save_file(model.state_dict(), …)",
) -> None:
    """Tell by its first bytes that a file is a pickle.

    Raises:
        ModelError: it is.
    """
    if begins.startswith(_PICKLED):
        raise ModelError(
            "a pickled checkpoint can run code when it is read, so it is not read",
            where=str(path),
            expected=wanted,
            fix=fix,
            id="pickle",
        )


def read_weights(content: bytes, *, where: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ModelError: not a whole safetensors file, or a weight that is NaN or infinite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state: dict[str, Tensor] = load(content)
    except SafetensorError as cause:
        raise ModelError(
            "not a safetensors file, or a truncated one",
            where=where,
            seen=f"{len(content)} bytes: {cause}",
            id="unreadable-weights",
        ) from cause
    _refuse_not_finite(state, where=where)
    return state


def signature(module: nn.Module, split: Split) -> Signature:
    """What goes in and what comes out, found by running the module on one sample.

    Raises:
        DataError: the split is empty.
        ModelError: the module does not take the sample, or gives no single tensor (N, classes).
    """
    import torch

    if not len(split):
        raise DataError("the model's signature needs a sample", where=split.name, seen="none")
    sample = torch.from_numpy(split.inputs(0, 1))
    shape = tuple(sample.shape)
    try:
        with torch.inference_mode():
            output = module(sample)
    except (RuntimeError, TypeError, ValueError, IndexError) as cause:
        raise ModelError(
            "the model does not take this data set's samples",
            seen=f"{first_line(cause)}, for an input of shape {shape}",
            fix="check data.preprocess.layout, and the model's input channels and size",
            id="sample-shape",
        ) from cause
    if not isinstance(output, torch.Tensor) or output.shape[:1] != (1,):
        raise ModelError(
            "the model must return one tensor with the batch as its first dimension",
            seen=str(tuple(output.shape))
            if isinstance(output, torch.Tensor)
            else type(output).__name__,
            id="signature",
        )
    if output.ndim < 2 or sum(size != 1 for size in output.shape[1:]) > 1:
        raise ModelError(
            "the model's output is not a classifier's",
            seen=str(tuple(output.shape)),
            expected="(batch, classes), or that with axes of 1 besides",
            id="signature",
        )
    return Signature(
        (TensorSpec("input", "float32", ("batch", *shape[1:])),),
        (TensorSpec("logits", str(output.dtype).split(".")[1], ("batch", *output.shape[1:])),),
    )


def source_unit(
    factory: str, options: Mapping[str, Any], weights: bytes, split: Split, seed: int
) -> Unit:
    """The unit that a recipe's `source` names; without weights it gets the factory's, seeded.

    Raises:
        RecipeError, ModelError, MachineError, DataError: as `build` and `signature`.
    """
    model = TorchModel(factory, dict(options), weights)
    module = build(model, seed=seed)
    return Unit(pack(module, model), signature(module, split))


def replace_activation(module: nn.Module, path: str, name: str) -> None:
    """Put the activation `name` (see `ACTIVATIONS`) in the place of the submodule at `path`."""
    from torch import nn

    module.set_submodule(path, getattr(nn, ACTIVATIONS[name])(), strict=True)


def activation_name(module: nn.Module) -> str | None:
    """The name under which `ACTIVATIONS` lists the module's class, or None."""
    from torch import nn

    return next((n for n, kind in ACTIVATIONS.items() if type(module) is getattr(nn, kind)), None)


def _construct(model: TorchModel) -> nn.Module:
    """Call the factory."""
    from torch import nn

    try:
        module = call_object(model.factory, model.options, where="source.factory")
    except ModuleNotFoundError as cause:
        raise MachineError(
            f"the model's module needs {cause.name}, which is not installed",
            where=model.factory,
            fix=f"pip install {cause.name}",
            id="missing-module",
        ) from cause
    if not isinstance(module, nn.Module):
        raise RecipeError(
            "the factory must return a torch.nn.Module",
            where=model.factory,
            seen=type(module).__name__,
        )
    return module


def _load(module: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Load every weight, or say which ones do not fit."""
    expected = module.state_dict()
    faults = [f"{name} is missing" for name in expected if name not in state]
    faults += [f"{name} is not the model's" for name in state if name not in expected]
    for name in expected.keys() & state.keys():
        seen, wanted = _kind(state[name]), _kind(expected[name])
        if seen != wanted:
            faults.append(f"{name} is {seen}, not {wanted}")
    if faults:
        more = f" and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise ModelError(
            "the weights are not this model's",
            where=where,
            seen="; ".join(sorted(faults)[:_LISTED]) + more,
            expected=f"{len(expected)} tensors",
            fix="check source.options, or the weights file",
            id="weights-mismatch",
        )
    module.load_state_dict(dict(state), strict=True)


def _kind(tensor: Tensor) -> str:
    """Shape, and whether it is of real numbers: any width of float may be loaded into another."""
    shape = "×".join(map(str, tensor.shape)) or "a scalar"
    return (
        shape if tensor.is_floating_point() else f"{shape} of {tensor.dtype}".replace("torch.", "")
    )


def _refuse_not_finite(state: Mapping[str, Tensor], *, where: str) -> None:
    for name, value in state.items():
        bad = int((~value.isfinite()).sum()) if value.is_floating_point() else 0
        if bad:
            raise ModelError(
                "a weight is NaN or infinite",
                where=f"{where}: {name}",
                seen=f"{bad} of {value.numel()} values",
                id="not-finite-weights",
            )
