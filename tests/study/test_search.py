"""The search for the smallest size, against looking at all of them."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pbkv.study.search import COARSE, Search, geometric


def searched(truth: list[bool]) -> Search:
    search = Search(len(truth))
    while wanted := search.wanted():
        for index in wanted:
            assert index not in search.met  # nothing is simulated twice
            search.met[index] = truth[index]
    return search


@given(st.integers(0, 300), st.integers(1, 300))
def test_where_more_never_hurts_the_smallest_size_is_found(first: int, num_sizes: int) -> None:
    truth = [index >= first for index in range(num_sizes)]
    search = searched(truth)
    assert search.answer() == (first if first < num_sizes else None)
    assert search.exceptions() == []
    assert len(search.met) <= COARSE + math.ceil(math.log2(num_sizes)) + 2


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_whatever_the_curve_the_answer_has_a_miss_below_and_meets_above(truth: list[bool]) -> None:
    search = searched(truth)
    answer = search.answer()
    assert (answer is None) == (not truth[-1])
    if answer is not None:
        assert answer == 0 or not truth[answer - 1]
        assert all(met for index, met in search.met.items() if index >= answer)
        assert answer == len(truth) - 1 or search.met[answer + 1]


def test_a_smaller_size_that_met_by_chance_is_reported() -> None:
    search = searched([False, True, False, False, False, True, True, True, True])
    assert (search.answer(), search.exceptions()) == (5, [])  # size 1 was never looked at
    search.met[1] = True
    assert search.exceptions() == [1]


def test_sizes_rise_by_the_step_and_end_at_the_largest() -> None:
    assert geometric(1, 5, 0.5) == [1, 2, 3, 4, 5]
    sizes = geometric(100, 1000, 0.1)
    assert sizes[:3] == [100, 110, 121]
    assert sizes[-1] == 1000
    assert geometric(7, 7, 0.1) == [7]
