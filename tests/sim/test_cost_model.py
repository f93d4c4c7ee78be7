"""The cost model: its formula term by term, fused decode runs against their sum, and its checks."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbkv.sim.cost_model import CostModel, LinkModel
from pbkv.sim.profile import load_profile, shipped_profiles
from pbkv.traces.errors import ConfigError

COST = CostModel(
    t0_s=1e-3,
    lin=((1, 4e-3), (100, 4e-3), (300, 6e-3), (1000, 20e-3)),
    a_p=1e-9,
    a_g=2e-8,
    a_d=3e-8,
    a_s=4e-6,
)
LINK = LinkModel(5e-6, 50e9, 40e9, 30e9, 20e9)
PROFILES = {name: load_profile(name).cost for name in shipped_profiles()}
ROUNDING = 1e-12  # relative: a few dozen roundings of 1.1e-16 each, the sums below taken exactly

cost_models = st.sampled_from(list(PROFILES.values()))
batches = st.integers(1, 256).flatmap(
    lambda size: st.tuples(st.just(size), st.integers(size, size * 131_072))
)


def decode_s(cost: CostModel, num_sequences: int, decode_context: int) -> float:
    return cost.iteration_s(num_sequences, num_sequences, 0.0, 0, decode_context)


@pytest.mark.parametrize(
    ("num_tokens", "lin_s"),
    [
        (1, 4e-3),
        (50, 4e-3),
        (100, 4e-3),
        (200, 5e-3),
        (300, 6e-3),
        (650, 13e-3),
        (1000, 20e-3),
        (1500, 30e-3),
    ],
)
def test_lin_is_straight_between_its_knots_and_behind_the_last(num_tokens: int, lin_s: float) -> None:
    assert COST.iteration_s(num_tokens, 0, 0.0, 0, 0) == pytest.approx(1e-3 + lin_s, rel=ROUNDING)


@pytest.mark.parametrize(
    ("place", "amount", "seconds"), [(1, 10, 4e-5), (2, 5e6, 5e-3), (3, 40_000, 8e-4), (4, 70_000, 2.1e-3)]
)
def test_each_term_has_its_coefficient(place: int, amount: float, seconds: float) -> None:
    sums: list[Any] = [1, 0, 0.0, 0, 0]
    without_s = COST.iteration_s(*sums)
    sums[place] = amount
    assert COST.iteration_s(*sums) - without_s == pytest.approx(
        seconds, rel=1e-9
    )  # a difference of near numbers


def test_a_mixed_iteration_by_hand() -> None:
    # A chunk of 200 behind 1,000, one of 98 behind nothing, and two sequences that decode at 500 and 700.
    work = 200 * (1000 + 100) + 98 * 49
    seconds = 1e-3 + 6e-3 + 1e-9 * work + 2e-8 * (1200 + 98) + 3e-8 * 1200 + 4e-6 * 4
    assert COST.iteration_s(300, 4, work, 1298, 1200) == pytest.approx(seconds, rel=ROUNDING)


@given(cost_models, batches, st.integers(1, 3000))
def test_a_decode_run_is_the_sum_of_its_iterations(
    cost: CostModel, batch: tuple[int, int], num_iterations: int
) -> None:
    size, context = batch
    total_s = math.fsum(decode_s(cost, size, context + step * size) for step in range(num_iterations))
    assert cost.decode_run_s(size, context, num_iterations) == pytest.approx(total_s, rel=ROUNDING)


@given(cost_models, batches)
def test_a_run_of_one_is_the_iteration_to_the_bit(cost: CostModel, batch: tuple[int, int]) -> None:
    assert cost.decode_run_s(*batch, 1) == decode_s(cost, *batch)


@given(cost_models, batches, st.floats(0.0, 1e4))
def test_iterations_until_is_the_least_that_reach(
    cost: CostModel, batch: tuple[int, int], seconds: float
) -> None:
    n = cost.decode_iterations_until(*batch, seconds)
    assert n >= 1
    assert cost.decode_run_s(*batch, n) >= seconds
    assert n == 1 or cost.decode_run_s(*batch, n - 1) < seconds


@given(cost_models, batches, st.integers(1, 10_000))
def test_iterations_until_the_exact_end_of_a_run_is_that_run(
    cost: CostModel, batch: tuple[int, int], num_iterations: int
) -> None:
    end_s = cost.decode_run_s(*batch, num_iterations)
    assert cost.decode_iterations_until(*batch, end_s) == num_iterations
    assert cost.decode_iterations_until(*batch, math.nextafter(end_s, math.inf)) == num_iterations + 1


def test_iterations_until_without_growth_is_a_division() -> None:
    cost = replace(COST, a_d=0.0, a_s=0.0)
    assert cost.decode_iterations_until(7, 1000, 0.0499) == 10  # 5 ms each
    assert cost.decode_iterations_until(7, 1000, 0.0501) == 11


@given(cost_models, st.integers(1, 40_000), st.integers(1, 40_000))
def test_more_tokens_never_take_less_time(cost: CostModel, one: int, other: int) -> None:
    fewer, more = sorted((one, other))
    fewer_s, more_s = (cost.iteration_s(tokens, 1, 0.0, 0, 0) for tokens in (fewer, more))
    assert more_s >= fewer_s * (1 - ROUNDING)


def test_a_cost_model_goes_through_pickle() -> None:
    copy = pickle.loads(pickle.dumps(COST))
    assert copy == COST
    assert decode_s(copy, 3, 300) == decode_s(COST, 3, 300)


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"t0_s": -1e-9}, "t0_s", "a finite number ≥ 0"),
        ({"a_d": math.nan}, "a_d", "a finite number ≥ 0"),
        ({"a_p": math.inf}, "a_p", "a finite number ≥ 0"),
        ({"a_s": True}, "a_s", "a finite number ≥ 0"),
        ({"a_g": "2"}, "a_g", "a finite number ≥ 0"),
        ({"lin": ((1, 0.1),)}, "lin", "at least two knots"),
        ({"lin": ((1, 0.1), (1, 0.2))}, "lin", "above 1 tokens"),
        ({"lin": ((1, 0.1), (2, 0.09))}, "lin", "≥ 0.1 s"),
        ({"lin": ((2, 0.1), (3, 0.2))}, "lin", "a first knot at 0 or 1 tokens"),
        ({"lin": ((1.0, 0.1), (3, 0.2))}, "lin", "whole tokens"),
        ({"lin": ((1, 0.1), (3, math.nan))}, "lin", "a finite number"),
        ({"lin": ((0, 0.0), (3, 0.2)), "t0_s": 0.0}, "lin", "not both 0"),
    ],
)
def test_bad_coefficients_are_refused(changes: dict[str, Any], field: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(COST, **changes)
    assert caught.value.field == field
    assert expected in caught.value.expected


def test_copies_by_direction_and_contention() -> None:
    assert LINK.h2d_s(10**9, False) == pytest.approx(5e-6 + 1 / 50)
    assert LINK.h2d_s(10**9, True) == pytest.approx(5e-6 + 1 / 30)
    assert LINK.d2h_s(10**9, False) == pytest.approx(5e-6 + 1 / 40)
    assert LINK.d2h_s(10**9, True) == pytest.approx(5e-6 + 1 / 20)


def test_a_given_bandwidth_holds_whatever_the_other_direction_does() -> None:
    link = LINK.with_bandwidth(h2d_bytes_per_s=32e9)
    assert link.h2d_s(10**9, True) == link.h2d_s(10**9, False) == pytest.approx(5e-6 + 1 / 32)
    assert (link.d2h_s(1, True), link.d2h_s(1, False)) == (LINK.d2h_s(1, True), LINK.d2h_s(1, False))
    assert link.with_bandwidth(d2h_bytes_per_s=32e9) == LinkModel(5e-6, 32e9, 32e9, 32e9, 32e9)
    assert LINK.with_bandwidth() == LINK


@pytest.mark.parametrize(
    ("field", "value"), [("latency_s", -1.0), ("h2d_bytes_per_s", 0), ("d2h_bytes_per_s_contended", math.inf)]
)
def test_bad_links_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(LINK, **{field: value})
