"""Delta debugging: the part of a whole that matters, by tests alone.

Source: A. Zeller and R. Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE
Transactions on Software Engineering 28(2), 2002: `ddmin`. There the input shrinks as long as the
program fails; here a set of items shrinks as long as a condition holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")
Holds = Callable[[tuple[Item, ...]], bool]


def minimal(items: Sequence[Item], holds: Holds[Item]) -> tuple[Item, ...]:
    """Some of `items` for which the condition holds, and without any one of them does not.

    That is 1-minimal: where larger steps could make it hold again, a smaller set may exist. Items
    that come first are tried first, and last ones are dropped first: with the likeliest in front
    few tests are made, at best the logarithm of how many are needed and their square.

    Args:
        items: distinct; the condition holds for all of them and not for none.
        holds: the condition of a subset, which comes in the order of `items`.
    """
    return _ddmin(_sufficient(items, holds), holds)


def _sufficient(items: Sequence[Item], holds: Holds[Item]) -> tuple[Item, ...]:
    """The first 1, 2, 4, 8 … items for which the condition holds."""
    size = 1
    while size < len(items) and not holds(tuple(items[:size])):
        size *= 2
    return tuple(items[:size])


def _ddmin(items: tuple[Item, ...], holds: Holds[Item]) -> tuple[Item, ...]:
    parts = 2
    while len(items) > 1:
        chunks = _chunks(items, parts)
        alone = next((chunk for chunk in chunks if holds(chunk)), None)
        if alone is not None:
            items, parts = alone, 2
            continue
        rests = (_without(items, chunk) for chunk in reversed(chunks))
        rest = next((rest for rest in rests if holds(rest)), None) if parts > 2 else None
        if rest is not None:
            items, parts = rest, max(parts - 1, 2)
        elif parts == len(items):
            break
        else:
            parts = min(2 * parts, len(items))
    return items


def _chunks(items: tuple[Item, ...], parts: int) -> list[tuple[Item, ...]]:
    """`items` in `parts` runs of lengths that differ by 1 at most."""
    ends = [len(items) * part // parts for part in range(parts + 1)]
    return [items[start:end] for start, end in pairwise(ends)]


def _without(items: tuple[Item, ...], chunk: tuple[Item, ...]) -> tuple[Item, ...]:
    return tuple(item for item in items if item not in chunk)
