"""Splits by workflow: stable, disjoint, dealt anew by another seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbkv.predict.split import Split, folds, split
from pbkv.traces.errors import ConfigError
from tests.predict.twin import workflow

ALL = [workflow("a", name=f"w{index}") for index in range(1000)]
SHARES = (70, 10, 20)


def ids(part: Split) -> list[set[str]]:
    return [{w.workflow_id for w in side} for side in (part.training, part.stopping, part.test)]


@given(seed=st.integers(0, 1000))
def test_every_workflow_is_on_one_side(seed: int) -> None:
    sides = ids(split(ALL, SHARES, seed))
    assert sum(map(len, sides)) == len(set().union(*sides)) == 1000
    assert [len(side) for side in sides] == pytest.approx([700, 100, 200], abs=75)


def test_a_workflow_stays_on_its_side_whatever_else_there_is() -> None:
    few, many = ids(split(ALL[:200], SHARES, 3)), ids(split(ALL[::-1], SHARES, 3))
    assert all(some <= all_ for some, all_ in zip(few, many, strict=True))
    assert ids(split(ALL, SHARES, 4)) != many


def test_what_the_hash_says_is_fixed() -> None:
    """Files name their test workflows by seed and shares only: the hash must never change."""
    assert sorted(ids(split(ALL[:12], SHARES, 0))[2]) == FIXED


FIXED = ["w10", "w11", "w4", "w5"]


@pytest.mark.parametrize("shares", [(70, 10), (70, 10, 30), (0, 10, 90), (90, 0, 10), (110, 10, -20)])
def test_shares_that_make_no_split_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="split"):
        split(ALL, shares, 0)


def test_too_few_workflows_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one in each part"):
        split(ALL[:2], SHARES, 0)


@pytest.mark.parametrize("num_folds", [2, 5])
def test_folds_test_each_workflow_once_and_never_train_on_it(num_folds: int) -> None:
    dealt = folds(ALL[:58], num_folds, 0)
    tested = [w.workflow_id for part in dealt for w in part.test]
    assert sorted(tested) == sorted(w.workflow_id for w in ALL[:58])
    for part in dealt:
        training, stopping, test = ids(part)
        assert len(training | stopping | test) == len(training) + len(stopping) + len(test) == 58
        assert len(stopping) == 6


def test_more_folds_than_workflows_are_refused() -> None:
    with pytest.raises(ConfigError, match="folds"):
        folds(ALL[:3], 4, 0)
