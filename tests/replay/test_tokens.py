"""Tokens made of segments: equal prefixes are equal tokens, and nothing else is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbkv.replay.tokens import answer_of, tokens_of
from pbkv.traces.errors import ConfigError
from pbkv.traces.schema import Call

SPECIAL = (0, 1, 7, 999)
VOCAB = 1000

ids = st.integers(-(2**63), 2**63 - 1)
prompts = st.lists(st.tuples(ids, st.integers(0, 40)), max_size=6)


def tokens(prompt: Sequence[tuple[int, int]], namespace: int = 0) -> list[int]:
    segment_ids, counts = [item[0] for item in prompt], [item[1] for item in prompt]
    return tokens_of(segment_ids, counts, VOCAB, special_ids=SPECIAL, namespace=namespace).tolist()


def call(index: int, num_output_tokens: int, output_id: int | None = None) -> Call:
    return Call(index, "planner", (), None, (1,), (8,), num_output_tokens, output_id)


@given(prompts, prompts, prompts)
def test_a_shared_prefix_is_the_same_tokens(
    head: list[tuple[int, int]], one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    shared = sum(count for _, count in head)
    assert tokens(head + one)[:shared] == tokens(head + other)[:shared] == tokens(head)


@given(prompts, prompts)
def test_tokens_are_those_of_the_segments_one_after_the_other(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    assert tokens(one + other) == tokens(one) + tokens(other)


@given(ids, ids, st.integers(16, 60))
def test_segments_of_two_ids_agree_on_no_block(one: int, other: int, num_tokens: int) -> None:
    if one != other:
        assert tokens([(one, num_tokens)])[:16] != tokens([(other, num_tokens)])[:16]


@given(prompts)
def test_no_token_is_special_or_outside_the_vocabulary(prompt: list[tuple[int, int]]) -> None:
    found = tokens(prompt)
    assert all(0 <= token < VOCAB for token in found)
    assert not set(found) & set(SPECIAL)


def test_a_namespace_is_a_trace_of_its_own() -> None:
    assert tokens([(5, 64)], namespace=1) != tokens([(5, 64)], namespace=0)


def test_all_ordinary_ids_come_up_about_equally_often() -> None:
    num_tokens = 100 * (VOCAB - len(SPECIAL))
    counts = np.bincount(tokens([(3, num_tokens)]), minlength=VOCAB)
    ordinary = np.delete(counts, SPECIAL)
    assert counts[list(SPECIAL)].sum() == 0
    assert 50 < ordinary.min()  # five standard deviations of a count of 100
    assert ordinary.max() < 150
    excess = float(np.sum((ordinary - 100.0) ** 2 / 100.0)) / (len(ordinary) - 1)
    assert 0.8 < excess < 1.2  # χ² by its degrees of freedom: 1 ± 0.045


def test_tokens_stay_what_they_are_from_version_to_version() -> None:
    # A server's cache, a saved log and two engines must agree on them.
    assert tokens_of((42, 7), (3, 2), 32_000).tolist() == [19770, 11101, 18123, 13321, 14397]


def test_an_answer_is_the_segment_that_later_prompts_hold() -> None:
    answer = answer_of(call(0, 5, output_id=77), "w", VOCAB).tolist()
    assert answer == tokens_of((77,), (5,), VOCAB).tolist()


def test_answers_without_an_id_are_their_own() -> None:
    answers = [
        answer_of(call(index, 20), name, VOCAB).tolist() for index, name in ((0, "a"), (1, "a"), (0, "b"))
    ]
    assert len({tuple(answer) for answer in answers}) == 3
    assert answers[0] == answer_of(call(0, 20), "a", VOCAB).tolist()
    assert len(answer_of(call(0, 0), "a", VOCAB)) == 0


def test_a_vocabulary_of_special_ids_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least two token ids"):
        tokens_of((1,), (4,), 3, special_ids=(0, 1))
