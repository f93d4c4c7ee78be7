"""Bélády and the plain orders between LRU, the exact optimum and the infinite cache, on tiny traces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.known import Known
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import POLICIES, make_policy
from pbkv.serve.future import uses_by_call
from pbkv.traces.schema import Call, Workflow
from tests.cache.optimum import Prompt, infinite, optimum

B = 4
PROMPTS = st.lists(
    st.lists(st.integers(0, 1), min_size=1, max_size=4).map(tuple), min_size=1, max_size=9
)  # of blocks; at most 30 different ones


WIDE = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=2), st.booleans()), min_size=1, max_size=8
).map(lambda drawn: [_two_blocks_a_segment(*each) for each in drawn])


def _two_blocks_a_segment(segments: Sequence[int], is_cut: bool) -> Prompt:
    """A prompt that may end in the middle of its last segment."""
    blocks = [2 * segment + half for segment in segments for half in (0, 1)]
    return tuple(blocks[:-1] if is_cut else blocks)


def flow_of(prompts: Sequence[Prompt], blocks_a_segment: int) -> Workflow:
    """One workflow, a call a prompt, each with one token more that cannot be found."""
    calls = []
    for i, prompt in enumerate(prompts):
        segments = [prompt[at : at + blocks_a_segment] for at in range(0, len(prompt), blocks_a_segment)]
        ids, tokens = [blocks[0] for blocks in segments], [len(blocks) * B for blocks in segments]
        calls.append(Call(i, "a", (), None, (*ids, 1000 + i), (*tokens, 1), 1))
    return Workflow("w", "app", None, calls)


def hits(
    policy: str,
    prompts: Sequence[Prompt],
    capacity: int,
    *,
    whole_nodes: bool = False,
    blocks_a_segment: int = 1,
) -> int:
    """What `pbkv curve` counts, in blocks."""
    flow, table = flow_of(prompts, blocks_a_segment), PathTable(B)
    known = Known(uses_by_call(flow.calls, table), whole_nodes=whole_nodes, block_size=B)
    config = CacheConfig(capacity, 0, B, whole_nodes=whole_nodes)
    manager, num_hits = CacheManager(config, table, make_policy(policy, known=known)), 0
    for now, call in enumerate(flow.calls):
        path = table.path(call.segment_ids, call.segment_tokens)
        kept = path.leading(capacity)
        held = kept.num_blocks * B
        manager.call_submitted(flow, now, float(now))
        admission = manager.admit(path, "w", float(now), held, "a")
        assert admission is not None
        manager.finish(admission.lease, kept, held, float(now))
        manager.check_invariants()
        num_hits += admission.gpu_hit_tokens // B
    return num_hits


def test_the_optimum_of_a_loop_that_does_not_fit() -> None:
    """Three prompts in turn, room for two: LRU finds nothing, the best keeps one of them."""
    loop = [(0,), (1,), (2,)] * 3
    assert hits("lru", loop, 2) == 0
    assert optimum(loop, 2, keeps_prompts=True) == hits("belady", loop, 2) == 3
    assert infinite(loop) == 6


def test_a_cache_that_may_forget_what_it_serves_does_better() -> None:
    """Room for one block, one prompt that comes back after another."""
    prompts = [(0,), (1,), (0,)]
    assert optimum(prompts, 1, keeps_prompts=True) == hits("belady", prompts, 1) == 0
    assert optimum(prompts, 1, keeps_prompts=False) == 1


@given(prompts=PROMPTS, capacity=st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_blocks_by_exact_future_are_the_optimum_and_nothing_beats_it(
    prompts: list[Prompt], capacity: int
) -> None:
    best = optimum(prompts, capacity, keeps_prompts=True)
    assert hits("belady", prompts, capacity) == best
    assert best <= optimum(prompts, capacity, keeps_prompts=False) <= infinite(prompts)


@given(prompts=WIDE, capacity=st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_so_they_are_where_a_prompt_ends_inside_a_segment(prompts: list[Prompt], capacity: int) -> None:
    best = optimum(prompts, capacity, keeps_prompts=True)
    assert hits("belady", prompts, capacity, blocks_a_segment=2) == best


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "infinite"])
@given(prompts=PROMPTS, capacity=st.integers(1, 7), whole_nodes=st.booleans())
@settings(max_examples=30, deadline=None)
def test_no_policy_beats_the_optimum(
    policy: str, prompts: list[Prompt], capacity: int, whole_nodes: bool
) -> None:
    found = hits(policy, prompts, capacity, whole_nodes=whole_nodes)
    assert found <= optimum(prompts, capacity, keeps_prompts=True)
