"""Context vectors: what a call shows, and that it shows nothing that is not known yet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given

from pbkv.predict.context import HASH_DIMS, context_vectors, num_dims_of
from pbkv.traces.schema import Call, Workflow
from tests.predict.twin import workflow
from tests.strategies import workflows


@given(drawn=workflows())
def test_hashed_vectors_know_nothing_of_the_answer_or_of_later_calls(drawn: list[Workflow]) -> None:
    for one in drawn:
        whole = context_vectors("hash", HASH_DIMS, one)
        assert whole.shape == (len(one.calls), HASH_DIMS)
        for position, call in enumerate(one.calls):
            unanswered = call._replace(num_output_tokens=999, output_id=None)
            cut = replace(one, calls=[*one.calls[:position], unanswered])
            np.testing.assert_array_equal(context_vectors("hash", HASH_DIMS, cut)[position], whole[position])


@given(drawn=workflows(max_workflows=1))
def test_nor_of_calls_that_may_still_run(drawn: list[Workflow]) -> None:
    """Of earlier calls only parents are sure to have answered."""
    (one,) = drawn
    last = one.calls[-1]
    others = [
        call if index in last.parent_indices else call._replace(num_output_tokens=77)
        for index, call in enumerate(one.calls[:-1])
    ]
    changed = context_vectors("hash", HASH_DIMS, replace(one, calls=[*others, last]))
    np.testing.assert_array_equal(changed[-1], context_vectors("hash", HASH_DIMS, one)[-1])


def test_ids_do_not_matter_but_lengths_and_kinds_do() -> None:
    """Ids mean nothing outside their file, and a predictor is used on other files."""
    call = Call(0, "a", (), None, (1, 2), (100, 7), 5, segment_kinds=("system", "tool"))
    alike = call._replace(segment_ids=(8, 9))
    others = [call._replace(segment_kinds=("system", "history")), call._replace(segment_tokens=(100, 9))]
    vectors = [
        context_vectors("hash", HASH_DIMS, Workflow("w", "app", None, [c]))[0] for c in (call, alike, *others)
    ]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert all((vectors[0] != other).any() for other in vectors[2:])


def test_the_trace_s_own_vectors_with_nan_where_there_is_none() -> None:
    one = workflow("abc", [[1.0, 2.0], [3.0, 4.0]])
    assert num_dims_of("column", [workflow("a"), one]) == 2
    found = context_vectors("column", 2, one)
    np.testing.assert_array_equal(found, [[1, 2], [3, 4], [np.nan, np.nan]])


def test_none_shows_nothing() -> None:
    assert context_vectors("none", 0, workflow("ab")).shape == (2, 0)
    assert num_dims_of("none", [workflow("ab")]) == num_dims_of("column", [workflow("ab")]) == 0
