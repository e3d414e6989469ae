from dataclasses import replace

import numpy as np
import pytest

from rtc.calibration.data import load_splits, npz_dataset
from rtc.compiler.core.data import Dataset, Preprocess
from rtc.compiler.core.errors import DataError

HW = Preprocess(layout="hw")


def dataset(raw, labels, classes=3, preprocess=HW):
    return Dataset("some", classes, "sha256:0", preprocess, lambda: (raw, labels))


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4)).astype(np.uint8)


def labels_of(count, classes=3):
    return np.arange(count) % classes


def keys(split):
    return {sample.tobytes() for sample in split.raw}


def test_splits_are_disjoint_stratified_and_complete():
    splits = load_splits(dataset(images(300), labels_of(300)), (0.7, 0.1, 0.2), seed=7)
    assert [len(splits.train), len(splits.calibration), len(splits.test)] == [210, 30, 60]
    assert np.bincount(splits.calibration.labels).tolist() == [10, 10, 10]
    all_keys = [keys(splits.train), keys(splits.calibration), keys(splits.test)]
    assert len(set.union(*all_keys)) == 300


def test_samples_keep_their_labels():
    raw = images(90)
    raw[:, 0, 0] = labels_of(90)
    splits = load_splits(dataset(raw, labels_of(90)), (0.5, 0.2, 0.3), seed=1)
    for split in (splits.train, splits.calibration, splits.test):
        np.testing.assert_array_equal(split.raw[:, 0, 0], split.labels)


def test_the_seed_decides():
    source = dataset(images(100), labels_of(100))
    first, again, other = (load_splits(source, (0.5, 0.2, 0.3), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.test.raw, again.test.raw)
    assert keys(first.test) != keys(other.test)
    assert first.digest == again.digest != other.digest


def test_the_digest_is_of_what_was_read_and_not_of_what_the_data_set_says():
    raw, labels = images(30), labels_of(30)
    fractions = (0.5, 0.2, 0.3)
    first = load_splits(dataset(raw, labels), fractions, 1).digest
    assert load_splits(dataset(raw.copy(), labels), fractions, 1).digest == first
    said = replace(dataset(raw, labels), digest="sha256:another", name="another")
    assert load_splits(said, fractions, 1).digest == first

    other, mislabelled = raw.copy(), labels.copy()
    other[29, 3, 3] ^= 1
    mislabelled[29] = 0
    for changed in (
        dataset(other, labels),
        dataset(raw, mislabelled),
        dataset(raw, None),
        dataset(raw[:, :2].reshape(-1, 2, 4), labels),
        dataset(raw.astype(np.int64), labels),
        dataset(raw[::-1], labels),
        replace(dataset(raw, labels), groups=np.arange(30) // 2),
    ):
        assert load_splits(changed, fractions, 1).digest != first


def test_samples_are_read_once():
    calls = []

    def load():
        calls.append(1)
        return np.random.default_rng().random((30, 4, 4)), labels_of(30)

    splits = load_splits(Dataset("some", 3, "", HW, load), (0.4, 0.3, 0.3), 1)
    assert not calls
    assert splits.digest == splits.digest
    assert not keys(splits.train) & keys(splits.test)
    assert len(calls) == 1


def test_the_recipes_preprocessing_goes_first():
    splits = load_splits(
        dataset(images(30), labels_of(30)), (0.5, 0.2, 0.3), 1, Preprocess(0.5, layout="hw")
    )
    split = splits.train
    np.testing.assert_array_equal(split.inputs(0, 2)[:, 0], split.raw[:2] * np.float32(0.5))


def test_a_sample_that_occurs_twice_is_used_once():
    raw = images(50)
    doubled = np.concatenate([raw, raw])
    splits = load_splits(dataset(doubled, labels_of(100, 1)), (0.5, 0.2, 0.3), seed=0)
    parts = [splits.train, splits.calibration, splits.test]
    assert sum(len(part) for part in parts) == 50
    assert len(set.union(*map(keys, parts))) == 50


def test_a_group_is_not_divided():
    raw, labels, groups = images(300), np.repeat([0, 1, 2], 100), np.arange(300) // 10
    source = replace(dataset(raw, labels), groups=groups)
    splits = load_splits(source, (0.6, 0.2, 0.2), seed=4)
    number = {sample.tobytes(): group for sample, group in zip(raw, groups, strict=True)}
    parts = (splits.train, splits.calibration, splits.test)
    found = [{number[key] for key in keys(part)} for part in parts]
    assert [len(part) for part in parts] == [180, 60, 60]
    assert sum(map(len, found)) == len(set.union(*found)) == 30


def test_small_classes_are_not_all_rounded_to_one_side():
    raw, labels = images(200), np.repeat(np.arange(100), 2)
    splits = load_splits(dataset(raw, labels, classes=100), (0.6, 0.2, 0.2), seed=3)
    assert 20 < len(splits.calibration) < 60


def test_unlabelled_samples():
    splits = load_splits(dataset(images(20), None), (0.5, 0.2, 0.3), seed=0)
    assert splits.test.labels is None
    assert len(splits.test) == pytest.approx(6, abs=1)


@pytest.mark.parametrize(
    ("raw", "labels", "preprocess", "message"),
    [
        (images(6), np.array([0, 1, 2, 0, 1, 3]), HW, "a label is out of range"),
        (images(6), np.array([0, 1, 2, 0, 1, -1]), HW, "a label is out of range"),
        (images(6), labels_of(5), HW, "samples and labels differ in number"),
        (images(6), labels_of(6).astype(float), HW, "the labels are not integers"),
        (np.array([object()] * 6), labels_of(6), HW, "the samples are not numbers"),
        (np.zeros((0, 4, 4)), labels_of(0), HW, "there are no samples"),
        (np.full((6, 4, 4), np.nan), labels_of(6), HW, "samples that are NaN or infinite"),
        (images(6), labels_of(6), Preprocess(layout="hwc"), 'do not fit the layout "hwc"'),
        (
            images(6),
            labels_of(6),
            Preprocess(mean=(0.1, 0.2), layout="hw"),
            "preprocess.mean does not fit",
        ),
        (
            np.zeros((6, 4, 4, 3)),
            labels_of(6),
            Preprocess(std=(1.0, 2.0), layout="hwc"),
            "preprocess.std does not fit",
        ),
    ],
)
def test_bad_samples_are_data_errors(raw, labels, preprocess, message):
    splits = load_splits(dataset(raw, labels, preprocess=preprocess), (0.5, 0.2, 0.3), 0)
    with pytest.raises(DataError, match=message):
        _ = splits.test


@pytest.mark.filterwarnings("error")
def test_samples_that_float32_does_not_hold_are_named():
    raw = images(6).astype(np.float64)
    raw[4, 0, 0] = 1e300
    with pytest.raises(DataError, match="in float32") as error:
        _ = load_splits(dataset(raw, labels_of(6)), (0.5, 0.2, 0.3), 0).test
    assert error.value.seen == "1 of 6, first at 4"


@pytest.mark.parametrize(("label", "expected"), [(-1, "0 or more"), (3, "0 to 2")])
def test_what_a_label_should_be_does_not_rest_on_wrong_ones(label, expected):
    labels = np.array([0, 1, 2, 0, 1, label])
    with pytest.raises(DataError) as error:
        _ = load_splits(dataset(images(6), labels), (0.5, 0.2, 0.3), 0).test
    assert error.value.expected == expected


def test_an_empty_split_names_its_fraction_and_the_samples():
    splits = load_splits(dataset(images(12), labels_of(12)), (0.8, 0.0, 0.2), 0)
    assert len(splits.test) > 0
    with pytest.raises(DataError) as error:
        _ = splits.calibration
    assert error.value.id == "empty-split"
    assert error.value.seen == "fraction 0 of 12 samples"


def test_npz_round_trip(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, x=images(30), y=labels_of(30))
    source = npz_dataset(path, 3, HW)
    splits = load_splits(source, (0.5, 0.2, 0.3), 0)
    assert len(splits.train) == pytest.approx(15, abs=2)
    assert source.name == "samples"
    assert npz_dataset(path, 3, HW).digest == source.digest


def _truncated(path):
    np.savez_compressed(path, x=images(300), y=labels_of(300))
    path.write_bytes(path.read_bytes()[:900])


def _corrupt(path):
    np.savez_compressed(path, x=images(300), y=labels_of(300))
    content = bytearray(path.read_bytes())
    content[200:400] = b"\0" * 200
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "not an .npz file"),
        (lambda path: path.write_bytes(b"not a zip"), "not an .npz file"),
        (_truncated, "not an .npz file"),
        (_corrupt, "not an .npz file"),
        (lambda path: np.savez(path, x=images(3)), "the file has no array y"),
        (lambda path: np.savez(path, a=images(3)), "the file has no array x and no y"),
        (
            lambda path: np.savez(path, x=np.array([{}], object), y=labels_of(1)),
            "not an .npz file of plain numbers",
        ),
    ],
)
def test_broken_npz_files_are_data_errors(tmp_path, write, message):
    path = tmp_path / "samples.npz"
    write(path)
    splits = load_splits(npz_dataset(path, 3, HW), (0.5, 0.2, 0.3), 0)
    with pytest.raises(DataError, match=message) as error:
        _ = splits.train
    assert str(path) in str(error.value)


def test_a_single_array_is_not_an_npz(tmp_path):
    path = tmp_path / "samples.npz"
    with path.open("wb") as stream:
        np.save(stream, images(3))
    with pytest.raises(DataError, match="single array"):
        npz_dataset(path, 3, HW).load()


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        npz_dataset(tmp_path / "nothing.npz", 3, HW)
