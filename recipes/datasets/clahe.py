"""Contrast-limited adaptive histogram equalisation (CLAHE).

Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV (1994): a histogram
for each tile, clipped so that noise in flat parts is not blown up, and the tiles' mappings mixed
bilinearly between their centres.
"""

from __future__ import annotations

import numpy as np

from rtc.compiler.core.arrays import Float32Array, Int64Array, UInt8Array

_TILES = 4  # along each side
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def equalise(image: UInt8Array, *, limit: float = 2.0) -> UInt8Array:
    """An RGB image (H, W, 3) with its luma equalised, colour differences kept.

    Args:
        image: H and W are at least 4; there are 4×4 tiles.
        limit: how many times the mean a bin of a tile's histogram may hold.
    """
    luma = image.astype(np.float32) @ _LUMA
    levels = np.rint(luma).astype(np.int64)
    rows, columns = (np.array_split(np.arange(size), _TILES) for size in levels.shape)
    mappings = np.stack(
        [[_mapping(levels[np.ix_(row, column)], limit) for column in columns] for row in rows]
    )
    top, down = _between(rows)
    left, right = _between(columns)

    def mapped(row: Int64Array) -> Float32Array:
        """Levels by the mappings of a row of tiles, mixed between left and right."""
        one, other = (mappings[row[:, None], column, levels] for column in (left, left + 1))
        mixed: Float32Array = one * (1 - right) + other * right
        return mixed

    upper, lower = mapped(top), mapped(top + 1)
    equalised = upper * (1 - down[:, None]) + lower * down[:, None]
    changed = image + (equalised - luma)[..., None]
    result: UInt8Array = np.rint(np.clip(changed, 0, 255)).astype(np.uint8)
    return result


def _mapping(tile: Int64Array, limit: float) -> Float32Array:
    """What each of 256 levels becomes: the cumulated histogram, after clipping, from 0 to 255."""
    histogram = np.bincount(tile.ravel(), minlength=256).astype(np.float32)
    clipped = np.minimum(histogram, limit * tile.size / 256)
    spread = clipped + (tile.size - clipped.sum()) / 256
    mapping: Float32Array = np.cumsum(spread) * np.float32(255 / tile.size)
    return mapping


def _between(parts: list[Int64Array]) -> tuple[Int64Array, Float32Array]:
    """For each pixel along a side: the tile whose centre lies before it, and the next one's share.

    Beyond the outer centres the outer tile's mapping holds alone.
    """
    centres = np.array([part.mean() for part in parts])
    place = np.interp(np.arange(parts[-1][-1] + 1), centres, np.arange(len(parts)))
    before = np.minimum(place.astype(np.int64), len(parts) - 2)
    return before, (place - before).astype(np.float32)
