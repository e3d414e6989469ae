"""What a user's data set function gave, as rtc's own `Dataset` of plain arrays; or what is wrong.

Taken are a `Dataset`, a pair (samples, labels), and what has a length and gives (sample, label) by
index, as PyTorch's data sets do. Arrays may be PyTorch tensors or lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Dataset, Preprocess
from rtc.compiler.core.errors import DataError, RtcError, first_line

_EXAMPLE = (
    'return x, y; or Dataset("name", 10, "", Preprocess(1 / 255, layout="hwc"), lambda: (x, y)),'
    " with x of numbers, samples first, and y of class indices, one for each sample"
)


def as_dataset(made: Any, where: str) -> Dataset:
    """The data set that a function gave; `where` names the function in errors.

    Raises:
        DataError: it gave nothing that samples can be taken from.
    """
    if isinstance(made, Dataset):
        _check_fields(made, where)
        return replace(
            made, load=lambda: _loaded(made.load, where), files=()
        )  # as far as rtc knows
    if isinstance(made, (tuple, list)):
        return _of_pair(*_loaded(lambda: made, where), where)
    if _by_index(made):
        return _of_pair(*_loaded(lambda: _collected(made), where), where, made)
    raise DataError(
        "this function gives no data set",
        where=where,
        seen=_called(made),
        expected=_EXAMPLE,
        fix="give the loader's own .dataset" if hasattr(made, "batch_size") else "",
        id="not-a-dataset",
    )


def _check_fields(made: Dataset, where: str) -> None:
    wrong = {
        "classes": not isinstance(made.classes, (int, np.integer)) or made.classes < 1,
        "preprocess": not isinstance(made.preprocess, Preprocess),
        "load": not callable(made.load),
    }
    for name in (name for name, bad in wrong.items() if bad):
        raise DataError(
            f"{name} of the data set is not what it should be",
            where=where,
            seen=_called(getattr(made, name)),
            expected=_EXAMPLE,
            id="not-a-dataset",
        )


def _of_pair(raw: Array, labels: Array | None, where: str, source: Any = None) -> Dataset:
    """Samples and labels as a data set; its classes are what the source names, or labels reach."""
    named = getattr(source, "classes", None)  # of torchvision's data sets, a list of names
    if isinstance(named, (list, tuple)):
        classes = len(named)
    elif labels is not None and labels.dtype.kind in "bui" and labels.size:
        classes = int(labels.max()) + 1
    else:
        classes = 1  # what the labels are instead is told when they are checked
    return Dataset(where.rpartition(":")[2], classes, "", Preprocess(), lambda: (raw, labels))


def _by_index(made: Any) -> bool:
    """Whether something may give samples by index."""
    able = hasattr(made, "__len__") and hasattr(made, "__getitem__")
    return able and not _array_like(made) and not isinstance(made, (str, bytes, dict))


def _collected(source: Any) -> tuple[Array, Array]:
    """All of what gives (sample, label) by index; one sample at a time is held beside them."""
    samples, labels = _Rows(len(source), "samples"), _Rows(len(source), "labels")
    for index in range(len(source)):
        pair = source[index]
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise DataError(
                "the data set does not give (sample, label) by index",
                seen=_called(pair),
                id="not-a-dataset",
            )
        samples.put(index, pair[0])
        labels.put(index, pair[1])
    return samples.rows, labels.rows


class _Rows:
    """Values of one shape, written into one array (count, *shape) as they come.

    Attributes:
        rows: the array; of a type that holds all the values so far.
    """

    def __init__(self, count: int, what: str) -> None:
        self.count, self.what = count, what
        self.rows: Array = np.empty(count)

    def put(self, index: int, value: Any) -> None:
        row = _array(value, self.what) if _array_like(value) else np.asarray(value)
        if index == 0:
            self.rows = np.empty((self.count, *row.shape), row.dtype)
        _check_shapes({row.shape, self.rows.shape[1:]}, self.what)
        if row.dtype != self.rows.dtype:
            self.rows = self.rows.astype(np.result_type(row.dtype, self.rows.dtype))
        self.rows[index] = row


def _check_shapes(shapes: set[tuple[int, ...]], what: str) -> None:
    if len(shapes) > 1:
        raise DataError(
            f"the {what} differ in shape",
            seen=" and ".join(map(str, sorted(shapes)[:2])),
            fix="crop or scale them to one shape",
            id="mixed-samples",
        )


def _loaded(load: Callable[[], Any], where: str) -> tuple[Array, Array | None]:
    """What `load` gives, as arrays."""
    try:
        given = load()
        if isinstance(given, (tuple, list)) and len(given) == 2:
            raw, labels = given
            return _array(raw, "samples"), None if labels is None else _array(labels, "labels")
    except RtcError as error:
        error.where = error.where or where
        raise
    except ModuleNotFoundError:
        raise  # an extra that is not installed, and the caller knows which
    except Exception as cause:
        raise DataError(
            "the data set's function failed",
            where=where,
            seen=f"{type(cause).__name__}: {first_line(cause)}",
            fix="mend it, or the options that the recipe gives it",
            id="user-code",
        ) from cause
    raise DataError(
        "the data set's samples and labels did not come as a pair",
        where=where,
        seen=_called(given),
        expected=_EXAMPLE,
        id="not-a-dataset",
    )


def _array(value: Any, what: str) -> Array:
    """An array, tensor, or list of these, as a NumPy array."""
    if hasattr(value, "detach"):
        tensor = value.detach().cpu()
        known = str(tensor.dtype) != "torch.bfloat16"  # which NumPy does not have
        return np.asarray(tensor.numpy() if known else tensor.float().numpy())
    if isinstance(value, (list, tuple)):
        parts = [_array(each, what) if _array_like(each) else each for each in value]
        _check_shapes({np.shape(part) for part in parts}, what)
        return np.asarray(parts)
    if not _array_like(value):
        raise DataError(f"the {what} are no array", seen=_called(value), expected=_EXAMPLE)
    return np.asarray(value)


def _array_like(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def _called(value: Any) -> str:
    """What came back, in words: "None", "a tuple of 3", "torch.Tensor of shape (5, 3)"."""
    if value is None:
        return "None"
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(type(each).__name__ for each in value[:3])
        return f"a {name} of {len(value)} ({inner}{', …' if len(value) > 3 else ''})"
    shape = getattr(value, "shape", None)
    return f"{name} of shape {tuple(shape)}" if isinstance(shape, tuple) else f"{name}"
