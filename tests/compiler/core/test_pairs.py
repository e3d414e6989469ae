import numpy as np
import pytest

from rtc.compiler.core.pairs import largest, partners


def test_neighbours_are_even_and_odd_channels_at_one_place():
    (found,) = partners((4, 1, 2))  # weights 0 to 7: channel 0 at two places, channel 1, …
    assert found.tolist() == [2, 3, 0, 1, 6, 7, 4, 5]


def test_of_an_odd_number_the_last_is_alone_or_goes_on_at_the_next_place():
    alone, onwards = partners((3, 2))  # as multiplied: 0 2 4 at the first place, 1 3 5 at the next
    assert alone.tolist() == [2, 3, 0, 1, 6, 6]
    assert onwards.tolist() == [2, 4, 0, 5, 1, 3]


def test_a_matrix_has_one_place():
    (found,) = partners((4,))
    assert found.tolist() == [1, 0, 3, 2]


def test_only_neighbours_of_one_sign_add_up():
    pairs = partners((4,))
    rows = np.array([[90, 38, 0, 0], [100, -100, 20, 20], [-60, -60, 5, 0], [0, 100, 100, 0]])
    assert largest(rows, pairs).tolist() == [128, 100, 120, 100]
    assert largest(rows, ()).tolist() == [90, 100, 60, 100]


@pytest.mark.parametrize("shape", [(4, 3, 3), (3, 3, 3), (1, 5, 5), (7,), (6, 1, 1)])
def test_no_two_neighbours_exceed_what_is_called_the_largest(shape):
    rows = np.random.default_rng(0).integers(-127, 128, (5, int(np.prod(shape))))
    pairs = partners(shape)
    found = largest(rows, pairs)
    for row, most in zip(rows, found, strict=True):
        sums = [
            abs(row[i] + row[j])
            for partner in pairs
            for i, j in enumerate(partner)
            if j < len(row) and row[i] * row[j] > 0
        ]
        assert most == max([*np.abs(row), *sums])


@pytest.mark.parametrize("shape", [(4, 9), (3, 9), (1, 25)])
def test_everyone_is_its_neighbour_s_neighbour(shape):
    for partner in partners(shape):
        paired = [i for i, j in enumerate(partner) if j < len(partner)]
        assert all(partner[partner[i]] == i != partner[i] for i in paired)
