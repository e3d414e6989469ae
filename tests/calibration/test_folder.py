import numpy as np
import pytest
from PIL import Image

from rtc.calibration.folder import folder_digest, folder_split
from rtc.compiler.core.data import Preprocess
from rtc.compiler.core.errors import DataError
from rtc.compiler.core.hashing import digest

COLOUR = Preprocess(scale=1 / 255, mean=(0.5,), layout="hwc")


def in_order(folder):
    """Names of the files, mixed as a split has them."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    return sorted(names, key=digest)


def pictures(folder, count=5, size=(6, 4)):
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size, 3)).astype(np.uint8)
    (folder / "deeper").mkdir()
    for index, each in enumerate(pixels):
        Image.fromarray(each).save(folder / ("deeper" if index > 2 else ".") / f"{index}.png")
    return pixels


def test_images_go_through_the_declared_preprocessing(tmp_path):
    pixels = pictures(tmp_path)
    pixels = pixels[[int(name[-5]) for name in in_order(tmp_path)]]
    split = folder_split(tmp_path, COLOUR)
    assert (len(split), split.labels) == (5, None)
    np.testing.assert_array_equal(split.inputs(), COLOUR(pixels))
    np.testing.assert_array_equal(split.inputs(1, 4), COLOUR(pixels[1:4]))
    assert [len(batch) for batch in split.batches(2)] == [2, 2, 1]
    np.testing.assert_array_equal(split.head(2).inputs(), COLOUR(pixels[:2]))


def test_the_first_samples_are_not_all_of_one_sub_folder(tmp_path):
    for name, grey in (("a", 0), ("b", 255)):
        (tmp_path / name).mkdir()
        for index in range(16):
            Image.fromarray(np.full((2, 2), grey, np.uint8)).save(tmp_path / name / f"{index}.png")
    few = folder_split(tmp_path, Preprocess(layout="hw")).head(16).inputs()
    assert 4 <= np.count_nonzero(few[:, 0, 0, 0]) <= 12


def test_grey_images(tmp_path):
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert folder_split(tmp_path, Preprocess(layout="hw")).inputs().tolist() == [[grey.tolist()]]


def test_arrays_are_read_a_file_at_a_time(tmp_path):
    values = np.random.default_rng(0).standard_normal((9, 3, 2)).astype(np.float32)
    first, second, third = sorted(("a.npy", "b.npz", "c.npy"), key=digest)
    for name, part in ((first, values[:4]), (second, values[4:5]), (third, values[5:])):
        if name.endswith("y"):
            np.save(tmp_path / name, part)
        else:
            np.savez(tmp_path / name, x=part)
    split = folder_split(tmp_path, Preprocess())
    np.testing.assert_array_equal(split.inputs(), values)
    (tmp_path / third).unlink()
    np.testing.assert_array_equal(split.inputs(3, 5), values[3:5])


def test_the_digest_is_of_names_and_content(tmp_path):
    pictures(tmp_path)
    before = folder_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("not a sample")
    assert folder_digest(tmp_path) == before
    (tmp_path / "0.png").write_bytes(b"other")
    assert folder_digest(tmp_path) != before


def test_broken_images_are_counted_and_the_first_named(tmp_path):
    pictures(tmp_path, 7)
    for name in ("0.png", "1.png", "2.png", "deeper/4.png"):
        (tmp_path / name).write_bytes(b"\x89PNG no more")
    with pytest.raises(DataError, match="4 of 7 files cannot be read") as error:
        folder_split(tmp_path, COLOUR)
    assert error.value.seen.count("not an image") == 3


def test_a_truncated_image_is_named_when_it_is_read(tmp_path):
    pictures(tmp_path, size=(64, 64))
    second = in_order(tmp_path)[1]
    whole = (tmp_path / second).read_bytes()
    (tmp_path / second).write_bytes(whole[: len(whole) // 2])
    split = folder_split(tmp_path, COLOUR)
    assert len(split.inputs(0, 1)) == 1
    with pytest.raises(DataError) as error:
        split.inputs(0, 2)
    assert (error.value.id, error.value.where) == ("broken-image", second.rpartition("/")[2])


def test_a_decompression_bomb_is_not_unpacked(tmp_path, monkeypatch):
    pictures(tmp_path, 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="4 of 4 files cannot be read"):
        folder_split(tmp_path, COLOUR)


@pytest.mark.parametrize(
    ("write", "identity"),
    [
        (lambda folder: None, "no-samples"),
        (lambda folder: np.save(folder / "a.npy", np.zeros((0, 3))), "no-samples"),
        (lambda folder: np.save(folder / "a.npy", np.zeros((2, 3), complex)), "unreadable-samples"),
        (lambda folder: np.save(folder / "a.npy", np.zeros(3)), "unreadable-samples"),
        (lambda folder: np.savez(folder / "a.npz", y=np.zeros((2, 3))), "unreadable-samples"),
        (lambda folder: (folder / "a.npy").write_bytes(b"no"), "unreadable-samples"),
    ],
)
def test_folders_without_samples(tmp_path, write, identity):
    write(tmp_path)
    with pytest.raises(DataError) as error:
        folder_split(tmp_path, Preprocess())
    assert error.value.id == identity


@pytest.mark.parametrize("other", [np.zeros((2, 4)), np.zeros((2, 3), np.float32)])
def test_samples_of_several_shapes_or_types(tmp_path, other):
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    np.save(tmp_path / "b.npy", other)
    with pytest.raises(DataError, match="1 of 2 files differ") as error:
        folder_split(tmp_path, Preprocess())
    assert error.value.seen.startswith("b.npy")


def test_images_need_an_image_layout_and_no_arrays_beside_them(tmp_path):
    pictures(tmp_path)
    with pytest.raises(DataError) as error:
        folder_split(tmp_path, Preprocess())
    assert error.value.id == "wrong-layout"
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match="images and arrays together"):
        folder_split(tmp_path, COLOUR)


def test_a_nan_is_named_by_its_file(tmp_path):
    values = np.zeros((4, 3), np.float32)
    np.save(tmp_path / "a.npy", values)
    values[2, 1] = np.nan
    np.save(tmp_path / "b.npy", values)
    split = folder_split(tmp_path, Preprocess())
    assert len(split.inputs(0, 6)) == 6
    with pytest.raises(DataError) as error:
        split.inputs(5, 8)
    assert error.value.where.endswith("b.npy")
    assert error.value.seen == "sample 2"
