"""signs43: photographs of 43 road signs that nobody took, drawn from a seed.

Every photograph has a sign in random pose (scale, place, rotation, perspective), in front of random
clutter, partly hidden, in random light (exposure, colour, shadow, haze), out of focus or moving,
and with the noise of a sensor. `difficulty` scales all of it; 0 is the bare sign.

Sample i depends on the seed, i and the options, and on nothing drawn before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rtc.compiler.core.arrays import Array, Float32Array, Int64Array
from rtc.compiler.core.data import Dataset, Preprocess
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.hashing import digest, file_digest
from rtc.recipes.datasets import sign_faces
from rtc.recipes.datasets.sign_faces import FACES, REACH

CLASSES = len(FACES)
PREPROCESS = Preprocess(
    scale=1 / 255, mean=(0.37, 0.33, 0.34), std=(0.25, 0.23, 0.24), layout="hwc"
)

Image = Float32Array  # (N, H, W, 3), or (N, H, W) for one value a pixel
Column = Float32Array  # (N, 1, 1): one value a photograph

_CHUNK = 256
_TEXTURE = 6  # the background is a texture of 6×6 colours, smooth in part and in blocks in part
_UNIFORMS = 48  # random numbers a photograph, more than `_photograph` asks for
_NATIVE = (15, 90)  # pixels of a sign in the files that `write_gtsrb` writes


def signs43(
    *, samples: int = 8600, size: int = 32, difficulty: float = 1.0, seed: int = 0
) -> Dataset:
    """`samples` photographs, as many of each class: uint8 (samples, size, size, 3), RGB.

    Args:
        samples: how many; sample i shows class i modulo 43.
        size: width and height in pixels.
        difficulty: 0 (the bare sign, straight ahead) to 2.
        seed: another seed gives other photographs of the same signs.

    Raises:
        RecipeError: an option is out of range.
    """
    camera = Camera(difficulty, seed)
    _check("samples", samples, CLASSES, 10_000_000)
    _check("size", size, 16, 256)
    options = {"samples": samples, "size": size, "difficulty": float(difficulty), "seed": seed}
    identity = digest({"options": options, **_code()})

    def load() -> tuple[Array, Int64Array]:
        chunks = np.array_split(np.arange(samples), -(-samples // _CHUNK))
        images = [camera.shoot(chunk, size) for chunk in chunks]
        return np.concatenate(images), np.arange(samples) % CLASSES

    return Dataset("signs43", CLASSES, identity, PREPROCESS, load)


def write_gtsrb(
    folder: Path, *, samples: int = 8600, difficulty: float = 1.0, seed: int = 0
) -> None:
    """Write photographs as GTSRB's training images are laid out: PPM files and a CSV a class.

    A class has a folder "00000" to "00042" with images `<track>_<frame>.ppm` of 25 to 108 pixels
    and `GT-<class>.csv`: `Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId`. Every
    photograph is a track of its own.

    Raises:
        RecipeError: an option is out of range.
        OSError: the folder cannot be written.
    """
    camera = Camera(difficulty, seed)
    _check("samples", samples, CLASSES, 10_000_000)
    low, high = np.log(_NATIVE)
    natives = np.exp(np.random.default_rng(seed).uniform(low, high, samples))
    for label in range(CLASSES):
        place = folder / f"{label:05d}"
        place.mkdir(parents=True, exist_ok=True)
        rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
        for track, index in enumerate(range(label, samples, CLASSES)):
            sign = round(float(natives[index]))
            border = max(5, round(sign / 10))  # as in GTSRB
            side, end = sign + 2 * border, sign + border
            image = camera.shoot(np.array([index]), side, margin=2 * border / sign)[0]
            name = f"{track:05d}_00000.ppm"
            (place / name).write_bytes(b"P6\n%d %d\n255\n" % (side, side) + image.tobytes())
            rows.append(f"{name};{side};{side};{border};{border};{end};{end};{label}")
        (place / f"GT-{label:05d}.csv").write_text("\n".join(rows) + "\n", encoding="ascii")


@dataclass(frozen=True)
class Camera:
    """Where photographs come from.

    Raises:
        RecipeError: a difficulty outside 0 to 2, or a negative seed.
    """

    difficulty: float
    seed: int

    def __post_init__(self) -> None:
        _check("difficulty", self.difficulty, 0, 2)
        _check("seed", self.seed, 0, 2**32 - 1)

    def shoot(self, indices: Int64Array, side: int, margin: float = 0.0) -> Array:
        """Photographs by number: uint8 (N, side, side, 3).

        The sign's region is the square [-1, 1]², the picture shows `margin` more on every side.
        """
        generators = [np.random.default_rng([self.seed, int(index)]) for index in indices]
        chance = Chance(np.stack([each.random(_UNIFORMS, np.float32) for each in generators]))
        texture = np.stack(
            [each.random((_TEXTURE, _TEXTURE, 3), np.float32) for each in generators]
        )
        noise = np.stack([each.standard_normal((side, side, 3), np.float32) for each in generators])
        scene = _Scene(self.difficulty, chance, side, margin)
        image = scene.clutter(texture)
        image = scene.place_sign(image, indices % CLASSES)
        image = scene.hide(image, texture)
        image = scene.light(image)
        image = scene.blur(image)
        image = scene.expose(image, noise)
        return np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)


class Chance:
    """Uniform random numbers in [0, 1), (N, K): each question takes the next column."""

    def __init__(self, table: Float32Array) -> None:
        self._columns = iter(table.T)

    def between(self, low: float, high: float) -> Column:
        """A number of that range for each photograph."""
        column: Column = next(self._columns)[:, None, None]
        return np.float32(low) + np.float32(high - low) * column

    def happens(self, probability: float) -> Column:
        """1 or 0 for each photograph."""
        return (self.between(0, 1) < probability).astype(np.float32)


@dataclass
class _Scene:
    """The steps of a photograph, for N of them at once."""

    difficulty: float
    chance: Chance
    side: int
    margin: float

    def __post_init__(self) -> None:
        edge = 1 + self.margin
        centres = ((np.arange(self.side, dtype=np.float32) + 0.5) / self.side * 2 - 1) * edge
        self.x, self.y = centres[None, None, :], centres[None, :, None]

    def clutter(self, texture: Image) -> Image:
        """A background: patches of colour, some with hard edges."""
        turn, grain = self._within(np.pi), self.chance.between(1.2, 2.6)
        x = (self.x * np.cos(turn) + self.y * np.sin(turn)) * grain / 2 + self._within(1)
        y = (self.y * np.cos(turn) - self.x * np.sin(turn)) * grain / 2 + self._within(1)
        column, row = (np.mod(each + 2.5, 5.0) for each in (x, y))
        hard = self.chance.happens(0.4)
        column, row = (hard * np.rint(each) + (1 - hard) * each for each in (column, row))
        grey = self.chance.between(0.2, 0.8)
        tint = np.concatenate([grey + self._within(0.15) for _ in range(3)], axis=2)[:, :, None]
        contrast = (self.difficulty * self.chance.between(0.2, 0.8))[..., None]
        return tint + contrast * (_sample(texture, column, row) - 0.5)

    def place_sign(self, image: Image, labels: Int64Array) -> Image:
        """The sign in front of it, in perspective."""
        d, chance = self.difficulty, self.chance
        scale = 0.97 - d * chance.between(0.0, 0.25)
        x, y = (self.x - self._within(0.12 * d)) / scale, (self.y - self._within(0.12 * d)) / scale
        turn = self._within(np.radians(14) * d)
        x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        depth = 1 + self._within(0.22 * d) * x + self._within(0.22 * d) * y
        x = x / depth * (1 + d * chance.between(0.0, 0.35))
        y = y / depth * (1 + d * chance.between(0.0, 0.15))
        resolution = min(128, max(16, -(-int(1.2 * self.side) // 16) * 16))
        faces = sign_faces.rasters(resolution)[labels]
        to_texel = np.float32(resolution / (2 * REACH))
        face = _sample(faces, (x + REACH) * to_texel - 0.5, (y + REACH) * to_texel - 0.5)
        return image * (1 - face[..., 3:]) + face[..., :3]

    def hide(self, image: Image, texture: Image) -> Image:
        """Something in front of a part of it: a leaf, a branch, a sticker."""
        there = self.chance.happens(0.35 * self.difficulty)
        angle, far = self._within(np.pi), self.chance.between(0.45, 1.0)
        turn = self._within(np.pi)
        dx, dy = self.x - far * np.cos(angle), self.y - far * np.sin(angle)
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        reach = (along / self.chance.between(0.2, 0.8)) ** 2
        reach = reach + (across / self.chance.between(0.1, 0.35)) ** 2
        covered = (there * (reach < 1))[..., None]
        return image * (1 - covered) + covered * texture[:, :1, :1] * 0.7

    def light(self, image: Image) -> Image:
        """Haze, the colour of the light, and the edge of a shadow."""
        d, chance = self.difficulty, self.chance
        haze = (d * chance.between(0.0, 0.45) * chance.happens(0.5))[..., None]
        image = image * (1 - haze) + haze * 0.75
        tint = np.concatenate([1 + self._within(0.15 * d) for _ in range(3)], axis=2)[:, :, None]
        angle = self._within(np.pi)
        beyond = self.x * np.cos(angle) + self.y * np.sin(angle) > self._within(0.8)
        dark = d * chance.between(0.0, 0.6) * chance.happens(0.4)
        lit: Image = image * tint * (1 - dark * beyond)[..., None]
        return lit

    def blur(self, image: Image) -> Image:
        """Defocus and motion: a Gaussian whose width differs by axis."""
        pixels = np.float32(self.side / (32 * (1 + self.margin)))
        reach = int(np.ceil(2.5 * pixels * (0.35 + self.difficulty)))
        for axis in (1, 2):
            sigma = pixels * (0.35 + self.difficulty * self.chance.between(0.0, 1.0))
            image = _smooth(image, sigma, reach, axis)
        return image

    def expose(self, image: Image, noise: Image) -> Image:
        """Under- or overexposure, then the sensor's noise."""
        d = self.difficulty
        stops = self.chance.between(-2.0, 0.6) * d
        grain = d * self.chance.between(0.005, 0.05)
        taken: Image = image * np.exp2(stops)[..., None] + noise * grain[..., None]
        return taken

    def _within(self, reach: float) -> Column:
        return self.chance.between(-reach, reach)


def _sample(images: Image, column: Image, row: Image) -> Image:
    """Values of (N, R, R, C) at fractional positions (N, H, W), bilinear; the edge goes on."""
    last = images.shape[1] - 1
    column, row = (np.clip(each, 0, last) for each in np.broadcast_arrays(column, row))
    left, top = (np.minimum(each.astype(np.int64), last - 1) for each in (column, row))
    right, down = (column - left)[..., None], (row - top)[..., None]
    which = np.arange(len(images))[:, None, None]
    upper = images[which, top, left] * (1 - right) + images[which, top, left + 1] * right
    lower = images[which, top + 1, left] * (1 - right) + images[which, top + 1, left + 1] * right
    mixed: Image = upper * (1 - down) + lower * down
    return mixed


def _smooth(image: Image, sigma: Column, reach: int, axis: int) -> Image:
    """Convolution along an axis with a Gaussian of `sigma` pixels, cut at `reach` pixels.

    The image's edge goes on outside.
    """
    steps = np.arange(-reach, reach + 1, dtype=np.float32)
    weights = np.exp(-(steps**2) / (2 * sigma[:, :, 0] ** 2))  # (N, steps)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    padding = [(0, 0)] * 4
    padding[axis] = (reach, reach)
    padded = np.pad(image, padding, mode="edge")
    length = image.shape[axis]
    shifted = (padded.take(range(s, s + length), axis) for s in range(len(steps)))
    total = np.zeros_like(image)
    for weight, part in zip(weights.T, shifted, strict=True):
        total += weight[:, None, None, None] * part
    return total


def _code() -> dict[str, str]:
    """What the drawing depends on besides its options: its source, and numpy's random streams."""
    return {
        "signs43": file_digest(Path(__file__)),
        "sign_faces": file_digest(Path(sign_faces.__file__)),
        "numpy": np.__version__,
    }


def _check(option: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RecipeError(
            f"signs43: {option} is out of range", seen=f"{value:g}", expected=f"{low:g} to {high:g}"
        )
