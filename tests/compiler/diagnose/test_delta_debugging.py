from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rtc.compiler.diagnose.delta_debugging import minimal

WHOLES = st.integers(1, 40).flatmap(
    lambda size: st.tuples(
        st.just(tuple(range(size))),
        st.sets(st.integers(0, size - 1), min_size=1, max_size=5),
    )
)


class Counted:
    """A condition, with the sets that it was asked for."""

    def __init__(self, condition) -> None:
        self.condition = condition
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, items: tuple[int, ...]) -> bool:
        self.asked.append(items)
        return self.condition(set(items))


@given(WHOLES)
def test_what_is_needed_together_is_found_exactly(whole) -> None:
    items, needed = whole
    holds = Counted(needed.issubset)
    assert minimal(items, holds) == tuple(sorted(needed))
    assert all(list(each) == sorted(each) for each in holds.asked), "the order is kept"


@given(st.integers(2, 24), st.lists(st.sets(st.integers(0, 23), min_size=1), min_size=1))
def test_a_monotone_condition_leaves_nothing_that_can_be_dropped(size, alternatives) -> None:
    items = tuple(range(size))
    ways = [set(each) & set(items) or {0} for each in alternatives]

    def holds(kept: tuple[int, ...]) -> bool:
        return any(way <= set(kept) for way in ways)

    found = minimal(items, holds)
    assert holds(found)
    for item in found:
        assert not holds(tuple(each for each in found if each != item))


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_a_condition_that_is_not_monotone_leaves_nothing_that_can_be_dropped(size, seed) -> None:
    items = tuple(range(size))

    def holds(kept: tuple[int, ...]) -> bool:
        return len(kept) == size or (len(kept) > 0 and hash((kept, seed)) % 5 == 0)

    found = minimal(items, holds)
    assert holds(found)
    for item in found:
        rest = tuple(each for each in found if each != item)
        assert not rest or not holds(rest)


def test_of_two_ways_the_one_in_front_is_taken() -> None:
    assert minimal(range(8), lambda kept: 3 in kept or 5 in kept) == (3,)


def test_likely_items_in_front_cost_few_tests() -> None:
    for needed, most in (({0}, 1), ({0, 1}, 4), ({0, 1, 2, 3}, 13)):
        holds = Counted(needed.issubset)
        assert set(minimal(range(64), holds)) == needed
        assert len(holds.asked) <= most, needed


def test_one_item_is_enough_where_there_is_no_other() -> None:
    holds = Counted(lambda kept: True)
    assert minimal(("only",), holds) == ("only",)
    assert holds.asked == []
