"""The faces of 43 road signs as polygons and strokes, and their rasters.

Numbered as in GTSRB (Stallkamp et al., "Man vs. computer", Neural Networks 32, 2012), so that a
class means the same sign in both. A face lies in [-1, 1]², x to the right and y down. Pictures on
it are written on a grid of 9×9 points: "35: 48 42; #: 40 73 13" is a stroke from column 4,
row 8 to column 4, row 2, 35 % of half the height wide, and a filled triangle; a stroke of one point
is a disc.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rtc.compiler.core.arrays import BoolArray, Float32Array, Float64Array

Box = tuple[float, float, float, float]  # centre x, y; half the width, half the height

REACH = 1.05
"""A raster covers [-REACH, REACH]²: a rim of transparent points around every face."""

_OVERSAMPLING = 4

_COLOURS = {
    "red": (0.72, 0.07, 0.10),
    "white": (0.93, 0.93, 0.91),
    "black": (0.06, 0.06, 0.07),
    "grey": (0.50, 0.50, 0.50),
    "blue": (0.06, 0.24, 0.62),
    "yellow": (0.95, 0.72, 0.05),
    "green": (0.08, 0.50, 0.22),
}

_CHARACTERS = {
    "0": "20 60 82 86 68 28 06 02 20",
    "1": "12 40 48",
    "2": "02 20 60 82 83 08 88",
    "3": "01 20 60 82 83 64 44 64 85 86 68 28 07",
    "5": "80 10 04 63 85 86 68 28 07",
    "6": "70 30 03 06 28 68 86 85 63 23 05",
    "7": "00 80 38",
    "8": "20 60 82 83 64 24 03 02 20 24 06 28 68 86 64",
    "S": "81 60 20 02 03 24 64 85 86 68 28 07",
    "T": "00 80 40 48",
    "O": "20 60 82 86 68 28 06 02 20",
    "P": "08 00 60 82 83 65 05",
}

_CAR = "#: 03 20 60 83 86 06; 50: 17; 50: 77"
_TRUCK = "#: 00 50 56 06; #: 62 72 84 86 66; 50: 17; 50: 67"
_RIGHT = "35: 18 14 54; #: 51 57 84"
_AHEAD_OR_RIGHT = "27: 28 23; #: 20 43 03; 27: 26 55; #: 52 58 85"
_KEEP_RIGHT = "35: 11 55; #: 77 72 27"
_CURVE_LEFT = "32: 58 55 33; #: 11 52 25"

_CHILD = "38: 21; 30: 23 26; 22: 26 08; 22: 26 38"
_CHILDREN = f"{_CHILD}; 38: 62; 30: 64 66; 22: 66 58; 22: 66 88; 20: 24 64"
_WHEELS = "20: 15 25 36 37 28 18 07 06 15; 20: 65 75 86 87 78 68 57 56 65"
_BICYCLE = f"{_WHEELS}; 20: 17 32 62 76; 20: 47 32"

_WARNINGS = {
    11: "50: 48 43; #: 40 64 24; 28: 05 85",  # right of way at the next crossing
    18: "48: 40 45; 52: 48",  # caution
    21: "32: 38 36 55 34 32; #: 30 53 13",  # double curve
    22: "#: 08 06 14 24 36 46 54 64 76 86 88",  # bumps
    23: "#: 22 31 51 62 65 25; 22: 36 27 38; 22: 56 47 58",  # slippery
    24: "32: 18 10; 32: 78 76 53 50",  # road narrows
    25: "42: 31; 32: 33 45 28; 32: 45 58; 22: 33 65 76; #: 58 88 75",  # road works
    27: "42: 40; 35: 42 45; 28: 45 28; 28: 45 68; 22: 43 15; 22: 43 75",  # pedestrians
    28: _CHILDREN,
    29: _BICYCLE,
    30: "25: 40 48; 25: 12 76; 25: 72 16; 15: 31 42 51; 15: 37 46 57",  # ice
    31: "38: 24 54; 22: 24 18; 22: 25 38; 22: 54 48; 22: 54 68; 28: 54 72 83; 15: 72 60; 15: 72 80",
}

_CROSSING_OUT = "6: 71 17; 6: 61 16; 6: 72 27"
_AROUND = "26: 12 31 41; #: 40 72 43"  # one of three arrows of a roundabout


@dataclass(frozen=True)
class Paint:
    """A polygon (n, 2), or where `width` is given a line through the points, with round ends."""

    colour: str
    points: Float64Array
    width: float = 0.0


Face = tuple[Paint, ...]


@cache
def rasters(resolution: int) -> Float32Array:
    """All faces, float32 (43, resolution, resolution, 4): red, green and blue times alpha; alpha.

    Alpha is the covered share of a pixel, from 4×4 points in it.
    """
    fine = resolution * _OVERSAMPLING
    images = np.zeros((len(FACES), fine, fine, 4), np.float32)
    for image, face in zip(images, FACES, strict=True):
        for paint in face:
            _fill(image, paint)
    blocks = images.reshape(-1, resolution, _OVERSAMPLING, resolution, _OVERSAMPLING, 4)
    means: Float32Array = blocks.mean(axis=(2, 4))
    return means


def _fill(image: Float32Array, paint: Paint) -> None:
    """Paint over the points (side, side, 4) that a polygon or a stroke covers."""
    centres = (np.arange(len(image)) + 0.5) / len(image) * 2 * REACH - REACH
    low = np.searchsorted(centres, paint.points.min(axis=0) - paint.width / 2)
    high = np.searchsorted(centres, paint.points.max(axis=0) + paint.width / 2)
    columns, rows = slice(low[0], high[0]), slice(low[1], high[1])
    x, y = centres[None, columns], centres[rows, None]
    covered = _near(paint, x, y) if paint.width else _inside(paint.points, x, y)
    image[rows, columns][covered] = (*_COLOURS[paint.colour], 1.0)


def _inside(points: Float64Array, x: Float64Array, y: Float64Array) -> BoolArray:
    """Which points a polygon holds: a ray to the right crosses its edges an odd number of times."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return inside


def _near(paint: Paint, x: Float64Array, y: Float64Array) -> BoolArray:
    """Which points lie within half the width of a line."""
    near = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    ends = paint.points[1:] if len(paint.points) > 1 else paint.points
    for a, b in zip(paint.points, ends, strict=False):
        along = b - a
        length = float(along @ along)
        t = ((x - a[0]) * along[0] + (y - a[1]) * along[1]) / length if length else 0.0 * x * y
        t = np.clip(t, 0.0, 1.0)
        near |= (x - a[0] - t * along[0]) ** 2 + (
            y - a[1] - t * along[1]
        ) ** 2 <= paint.width**2 / 4
    return near


def _polygon(colour: str, corners: int, radius: float, turn: float = 0.0) -> Paint:
    """A regular polygon around the centre; `turn` in degrees, 0 with a corner at the top."""
    angles = np.radians(turn) + np.arange(corners) * 2 * np.pi / corners
    return Paint(colour, radius * np.stack([np.sin(angles), -np.cos(angles)], axis=1))


def _disc(colour: str, radius: float) -> Paint:
    return Paint(colour, np.zeros((1, 2)), 2 * radius)


def _picture(text: str, colour: str, box: Box, *, mirrored: bool = False) -> Face:
    """A picture in the notation of this module's docstring, within a box."""
    return tuple(_parts(text, colour, box, mirrored))


def _parts(text: str, colour: str, box: Box, mirrored: bool) -> Iterator[Paint]:
    for part in text.split(";"):
        kind, _, places = part.strip().partition(": ")
        grid = np.array([[int(place[0]), int(place[1])] for place in places.split()]) / 4.0 - 1.0
        if mirrored:
            grid[:, 0] *= -1
        points = np.array(box[:2]) + grid * np.array(box[2:])
        yield Paint(colour, points, 0.0 if kind == "#" else int(kind) / 100 * box[3])


def _turned(picture: Face, degrees: float) -> Face:
    """A picture turned clockwise around the centre."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    turn = np.array([[cosine, sine], [-sine, cosine]])
    return tuple(Paint(each.colour, each.points @ turn, each.width) for each in picture)


def _text(word: str, colour: str, width: float, height: float) -> Face:
    """Characters side by side, `width` and `height` half of what they take together."""
    cell = width / len(word)
    paints: list[Paint] = []
    for index, character in enumerate(word):
        box = ((2 * index + 1) * cell - width, 0.0, cell * 0.68, height)
        paints += _picture(f"36: {_CHARACTERS[character]}", colour, box)
    return tuple(paints)


def _forbidden(*pictures: Face) -> Face:
    """A red ring."""
    return (_disc("red", 1.0), _disc("white", 0.76), *_joined(pictures))


def _ended(*pictures: Face) -> Face:
    """A grey picture, crossed out."""
    crossing = _picture(_CROSSING_OUT, "black", (0.0, 0.0, 0.95, 0.95))
    return (_disc("grey", 1.0), _disc("white", 0.93), *_joined(pictures), *crossing)


def _commanded(*pictures: Face) -> Face:
    """A blue disc."""
    return (_disc("white", 1.0), _disc("blue", 0.94), *_joined(pictures))


def _warning(*pictures: Face) -> Face:
    """A red triangle."""
    outer = np.array([[0.0, -0.92], [1.0, 0.82], [-1.0, 0.82]])
    middle = np.array([0.0, 0.24])
    inner = middle + (outer - middle) * 0.70
    return (Paint("red", outer), Paint("white", inner), *_joined(pictures))


def _joined(pictures: Sequence[Face]) -> Face:
    return tuple(paint for picture in pictures for paint in picture)


def _faces() -> Iterator[tuple[int, Face]]:
    """Class and face, in no order."""
    yield from _rings()
    yield from _triangles()
    yield from _discs()
    yield 12, (_polygon("white", 4, 1.0), _polygon("yellow", 4, 0.80))  # priority road
    down = _polygon("red", 3, 1.05, 180), _polygon("white", 3, 0.62, 180)
    yield 13, tuple(Paint(p.colour, p.points - (0.0, 0.2)) for p in down)  # yield
    stop = _polygon("white", 8, 1.0, 22.5), _polygon("red", 8, 0.93, 22.5)
    yield 14, (*stop, *_text("STOP", "white", 0.74, 0.28))


def _rings() -> Iterator[tuple[int, Face]]:
    whole, left, right = (0.0, 0.0, 0.5, 0.42), (-0.33, 0.0, 0.27, 0.25), (0.33, 0.0, 0.27, 0.25)
    tall = (-0.33, -0.05, 0.29, 0.34)
    limits = {0: "20", 1: "30", 2: "50", 3: "60", 4: "70", 5: "80", 7: "100", 8: "120"}
    for label, limit in limits.items():
        yield label, _forbidden(_text(limit, "black", 0.2 * len(limit) + 0.06, 0.36))
    yield 6, _ended(_text("80", "grey", 0.48, 0.40))
    car = _picture(_CAR, "black", right)
    yield 9, _forbidden(_picture(_CAR, "red", left), car)
    yield 10, _forbidden(_picture(_TRUCK, "red", tall), car)
    yield 15, _forbidden()
    yield 16, _forbidden(_picture(_TRUCK, "black", whole))
    bar = Paint("white", np.array([[-0.75, -0.2], [0.75, -0.2], [0.75, 0.2], [-0.75, 0.2]]))
    yield 17, (_disc("white", 1.0), _disc("red", 0.95), bar)
    yield 32, _ended()
    grey = _picture(_CAR, "grey", right)
    yield 41, _ended(_picture(_CAR, "grey", left), grey)
    yield 42, _ended(_picture(_TRUCK, "grey", tall), grey)


def _triangles() -> Iterator[tuple[int, Face]]:
    box = (0.0, 0.29, 0.42, 0.38)
    for label, text in _WARNINGS.items():
        yield label, _warning(_picture(text, "black", box))
    yield 19, _warning(_picture(_CURVE_LEFT, "black", box))
    yield 20, _warning(_picture(_CURVE_LEFT, "black", box, mirrored=True))
    lights = ("red", "80: 40"), ("yellow", "80: 44"), ("green", "80: 48")
    yield 26, _warning(*(_picture(text, colour, (0.0, 0.3, 0.3, 0.3)) for colour, text in lights))


def _discs() -> Iterator[tuple[int, Face]]:
    box = (0.0, 0.0, 0.62, 0.62)
    for label, text in ((33, _RIGHT), (36, _AHEAD_OR_RIGHT), (38, _KEEP_RIGHT)):
        yield label, _commanded(_picture(text, "white", box))
        yield label + 1, _commanded(_picture(text, "white", box, mirrored=True))
    yield 35, _commanded(_picture("35: 48 42; #: 40 73 13", "white", box))
    arrow = _picture(_AROUND, "white", (0.0, 0.0, 0.66, 0.66))
    yield 40, _commanded(*(_turned(arrow, degrees) for degrees in (0, 120, 240)))


FACES: tuple[Face, ...] = tuple(face for _, face in sorted(_faces(), key=lambda pair: pair[0]))
