from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.hashing import digest
from rtc.recipes.datasets.sign_faces import FACES, rasters
from rtc.recipes.datasets.signs43 import CLASSES, Camera, signs43

RED, YELLOW, WHITE, BLUE = (
    (0.72, 0.07, 0.10),
    (0.95, 0.72, 0.05),
    (0.93, 0.93, 0.91),
    (0.06, 0.24, 0.62),
)


def test_43_faces_and_no_two_alike() -> None:
    faces = rasters(32)
    assert faces.shape == (43, 32, 32, 4)
    assert len(FACES) == CLASSES == 43
    for one in range(CLASSES):
        apart = np.abs(faces - faces[one]).mean(axis=(1, 2, 3))
        assert apart[np.arange(CLASSES) != one].min() > 0.005, f"class {one}"


@pytest.mark.parametrize(
    ("label", "row", "column", "colour"),
    [
        (12, 0.5, 0.5, YELLOW),  # priority road
        (13, 0.08, 0.5, None),  # yield: nothing above its upper edge
        (14, 0.5, 0.1, RED),  # stop
        (15, 0.5, 0.5, WHITE),  # no vehicles: an empty ring
        (17, 0.5, 0.5, WHITE),  # no entry: the bar
        (17, 0.2, 0.5, RED),  # and the ground above it
        (35, 0.5, 0.15, BLUE),  # ahead only
        (18, 0.05, 0.05, None),  # a triangle leaves the corners free
    ],
)
def test_faces_have_their_colours(
    label: int, row: float, column: float, colour: tuple[float, float, float] | None
) -> None:
    *seen, alpha = rasters(64)[label, int(row * 64), int(column * 64)]
    assert alpha == (0.0 if colour is None else 1.0)
    np.testing.assert_allclose(seen, colour or (0, 0, 0), atol=1e-6)


def test_left_and_right_are_mirror_images() -> None:
    faces = rasters(32)
    for one, other in ((19, 20), (33, 34), (36, 37), (38, 39)):
        np.testing.assert_allclose(faces[one], faces[other][:, ::-1], atol=0.1)
        assert not np.allclose(faces[one], faces[other], atol=0.5)


def test_samples_and_labels() -> None:
    dataset = signs43(samples=100, size=24)
    raw, labels = dataset.load()
    assert raw.shape == (100, 24, 24, 3)
    assert raw.dtype == np.uint8
    assert labels is not None
    assert labels.tolist() == [index % 43 for index in range(100)]
    assert dataset.classes == 43
    assert len(np.unique(raw.reshape(100, -1), axis=0)) == 100


def test_preprocessing_standardises() -> None:
    dataset = signs43(samples=430)
    x = dataset.preprocess(dataset.load()[0])
    assert x.shape == (430, 3, 32, 32)
    assert np.abs(x.mean(axis=(0, 2, 3))).max() < 0.1
    assert np.abs(x.std(axis=(0, 2, 3)) - 1).max() < 0.1


def test_without_difficulty_a_sign_is_its_face() -> None:
    image = Camera(0.0, 5).shoot(np.array([17 + 43]), 32)[0] / 255  # no entry
    np.testing.assert_allclose(image[16, 16], WHITE, atol=0.02)
    np.testing.assert_allclose(image[6, 16], RED, atol=0.03)


def test_difficulty_makes_photographs_of_a_class_differ_more() -> None:
    spread = []
    for difficulty in (0.0, 0.5, 1.0, 2.0):
        images = Camera(difficulty, 0).shoot(np.arange(40) * 43, 32)
        spread.append(float(images[:, 8:24, 8:24].std(axis=0).mean()))
    assert spread == sorted(spread)
    assert spread[-1] > 4 * spread[0]


def test_a_photograph_depends_on_its_number_and_not_on_its_neighbours() -> None:
    camera = Camera(1.0, 3)
    together = camera.shoot(np.arange(20), 32)
    np.testing.assert_array_equal(camera.shoot(np.array([13]), 32)[0], together[13])


def test_sizes_show_the_same_scene() -> None:
    camera = Camera(0.5, 3)
    small, large = (camera.shoot(np.arange(43), side).astype(float) for side in (32, 64))
    reduced = large.reshape(43, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    apart = np.abs(small - reduced).mean()
    other = np.abs(small - np.roll(reduced, 1, axis=0)).mean()
    assert apart < 0.35 * other


def test_processes_and_hash_seeds_agree() -> None:
    dataset = signs43(samples=86, seed=4)
    script = """
from rtc.compiler.core.hashing import digest; from rtc.recipes.datasets.signs43 import signs43
import sys
dataset = signs43(samples=86, seed=4); heavy = {"PIL", "torch"} & sys.modules.keys()
print(dataset.digest, digest(dataset.load()[0].tobytes()), *heavy)
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert run.stdout.split() == [dataset.digest, digest(dataset.load()[0].tobytes())]


def test_every_option_changes_the_digest() -> None:
    variants = [
        signs43(),
        signs43(samples=100),
        signs43(size=48),
        signs43(difficulty=0.9),
        signs43(seed=1),
    ]
    assert len({each.digest for each in variants}) == len(variants)
    assert signs43().digest == signs43(samples=8600, difficulty=1).digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 42}, "samples is out of range .seen 42, expected 43 to"),
        ({"size": 8}, "size is out of range"),
        ({"difficulty": -0.1}, "difficulty is out of range .seen -0.1, expected 0 to 2"),
        ({"difficulty": float("nan")}, "difficulty is out of range .seen nan"),
        ({"seed": -1}, "seed is out of range"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        signs43(**options)  # type: ignore[arg-type]  # a recipe may give any number
