"""Data sets as users' functions give them: what is taken, and what is said of what is not."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rtc.calibration.data import load_splits
from rtc.calibration.given import as_dataset
from rtc.compiler.core.data import Dataset, Preprocess
from rtc.compiler.core.errors import DataError, ModelError

X = np.random.default_rng(0).standard_normal((30, 1, 4, 4)).astype(np.float32)
Y = np.arange(30) % 3
PLAIN = Preprocess()


class ByIndex:
    """As a PyTorch data set is."""

    def __init__(self, sample: Callable[[int], Any], **attributes: Any) -> None:
        self.sample = sample
        vars(self).update(attributes)

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        return self.sample(index)


def given(load: Any, classes: Any = 3, preprocess: Any = PLAIN) -> Dataset:
    return Dataset("mine", classes, "", preprocess, load)


def read(made: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Everything of what a function gave, in the order of its first value."""
    dataset = as_dataset(made, "data_mine:make")
    test = load_splits(dataset, (0.0, 0.0, 1.0), 0).test
    assert test.labels is not None
    order = np.argsort(test.raw.reshape(len(test), -1)[:, 0])
    return test.raw[order], test.labels[order], dataset.classes


def tensors() -> tuple[Any, Any]:
    torch = pytest.importorskip("torch")
    return torch.from_numpy(X), torch.from_numpy(Y)


TAKEN: dict[str, Callable[[], Any]] = {
    "data set": lambda: given(lambda: (X, Y)),
    "data set of tensors": lambda: given(tensors),
    "data set of lists": lambda: given(lambda: (list(X), list(Y))),
    "list as the pair": lambda: given(lambda: [X, Y.tolist()]),
    "pair": lambda: (X, Y),
    "pair of tensors": tensors,
    "pair of lists of tensors": lambda: tuple(map(list, tensors())),
    "by index": lambda: ByIndex(lambda i: (X[i], int(Y[i]))),
    "by index, tensors": lambda: ByIndex(lambda i: tuple(t[i] for t in tensors())),
}


@pytest.mark.parametrize("name", TAKEN)
def test_arrays_tensors_pairs_and_what_goes_by_index_are_taken(name: str) -> None:
    raw, labels, classes = read(TAKEN[name]())
    order = np.argsort(X[:, 0, 0, 0])
    np.testing.assert_array_equal(raw, X[order])
    np.testing.assert_array_equal(labels, Y[order])
    assert classes == 3


def test_a_torch_data_set_is_taken_and_its_class_names_count() -> None:
    torch = pytest.importorskip("torch")
    assert read(torch.utils.data.TensorDataset(*tensors()))[2] == 3
    assert read(ByIndex(lambda i: (X[i], int(Y[i])), classes=["a", "b", "c", "d"]))[2] == 4


def test_half_floats_and_pictures_are_taken() -> None:
    torch = pytest.importorskip("torch")
    image = pytest.importorskip("PIL.Image")
    halves = torch.from_numpy(X).to(torch.bfloat16)
    assert read((halves, Y))[0].dtype == np.float32
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    raw, _, _ = read(ByIndex(lambda i: (image.fromarray(pixels[i]), int(Y[i]))))
    assert raw.shape == (30, 8, 8, 3)


def failing() -> Any:
    raise ValueError("no such folder\nand more")


def refused() -> Any:
    raise ModelError("of the user's own", id="own")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (None, "gives no data set (seen None, expected return x, y; or Dataset("),
        ("a path", "seen str"),
        ({"x": X, "y": Y}, "seen dict"),
        (X, "seen numpy.ndarray of shape (30, 1, 4, 4)"),
        ((X, Y, Y), "as a pair (seen a tuple of 3 (ndarray, ndarray, ndarray)"),
        (given(lambda: None), "as a pair (seen None"),
        (given(lambda: X), "as a pair (seen numpy.ndarray of shape (30, 1, 4, 4)"),
        (given(lambda: (None, Y)), "the samples are no array (seen None"),
        (given(lambda: (X, 3)), "the labels are no array (seen int"),
        (given(failing), "failed (seen ValueError: no such folder)"),
        (given((X, Y)), "load of the data set is not what it should be (seen a tuple of 2"),
        (given(lambda: (X, Y), classes=["a", "b"]), "classes of the data set"),
        (given(lambda: (X, Y), preprocess=None), "preprocess of the data set"),
        (given(lambda: (X, Y), 3, Preprocess(layout="nhwc")), "no such layout (seen 'nhwc'"),
        (given(lambda: (X, Y.astype(np.float32))), "float32, expected class indices); y.astype"),
        (given(lambda: (X, Y.astype(str))), "not integers (seen dtype <U21"),
        (given(lambda: (X, np.eye(3)[Y])), "labels of shape (30, 3), expected class indices of"),
        (given(lambda: (X, Y[:, None])), "y.reshape(-1) gives them"),
        (given(lambda: (X, Y[:20])), "30 samples, labels of shape (20,)"),
        (given(lambda: (X, Y + 1)), "a label is out of range"),
        (given(lambda: ([X[0], X[1, :, :2]], Y[:2])), "samples differ in shape (seen (1, 2, 4)"),
        (ByIndex(lambda i: X[i]), "(sample, label) by index (seen numpy.ndarray of shape (1"),
        (ByIndex(lambda i: (X[i], Y[i], 0)), "(sample, label) by index (seen a tuple of 3"),
        (ByIndex(lambda i: (X[i].astype(str), Y[i])), "the samples are not numbers"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_came_back_and_what_is_wanted(made: Any, words: str) -> None:
    with pytest.raises(DataError) as error:
        read(made)
    assert words in str(error.value)
    assert "data_mine:make" in error.value.where or error.value.where.startswith(("mine", "make"))


def test_an_error_of_rtcs_own_goes_through() -> None:
    with pytest.raises(ModelError) as error:
        read(given(refused))
    assert error.value.id == "own"


def test_a_data_set_by_index_is_held_once_in_memory() -> None:
    shape = (3, 64, 64)
    made = ByIndex(lambda i: (np.full(shape, i, np.float32), i % 3))
    whole = 30 * np.prod(shape) * 4
    tracemalloc.start()
    try:
        raw, _ = as_dataset(made, "data_mine:make").load()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert raw.shape == (30, *shape)
    assert peak < 1.3 * whole


def test_values_of_several_types_by_index_get_one_that_holds_them_all() -> None:
    def sample(index: int) -> tuple[np.ndarray, float]:
        return X[index].astype(np.float16 if index < 10 else np.float64), [0, 1.5][index % 2]

    raw, labels = as_dataset(ByIndex(sample), "data_mine:make").load()
    assert labels is not None
    assert (raw.dtype, labels.dtype) == (np.float64, np.float64)
    assert labels[1] == 1.5
