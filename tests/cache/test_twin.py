"""The tree and the manager against the naive twin, and what must hold whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import make_policy
from pbkv.traces.schema import Call
from tests.cache.twin import KEYS, NaiveCache, tokens_of
from tests.strategies import calls

BLOCK_SIZE = 4


def serve(manager: CacheManager, call: Call, now_s: float) -> int:
    """What `pbkv curve` does with a call: look up, compute, keep; the hits in blocks."""
    path = manager.table.path(call.segment_ids, call.segment_tokens)
    kept = path.leading(manager.config.gpu_blocks)
    admission = manager.admit(path, "w", now_s, kept.num_blocks * BLOCK_SIZE)
    assert admission is not None
    manager.finish(admission.lease, kept, kept.num_blocks * BLOCK_SIZE, now_s)
    return admission.gpu_hit_tokens // BLOCK_SIZE


def make_manager(policy: str, gpu_blocks: int, host_blocks: int = 0, **rules: object) -> CacheManager:
    config = CacheConfig(gpu_blocks, host_blocks, BLOCK_SIZE, **rules)  # type: ignore[arg-type]
    return CacheManager(config, PathTable(BLOCK_SIZE), make_policy(policy, 0))


@pytest.mark.parametrize("policy", KEYS)
@given(trace=st.lists(calls(), max_size=40), capacity=st.integers(1, 24))
@settings(max_examples=150, deadline=None)
def test_every_hit_is_the_twins(policy: str, trace: list[Call], capacity: int) -> None:
    manager, twin = (
        make_manager(policy, capacity, whole_nodes=False),
        NaiveCache(policy, capacity, BLOCK_SIZE),
    )
    for now, call in enumerate(trace):
        assert serve(manager, call, float(now)) == twin.serve(tokens_of(call), [], float(now))
        manager.check_invariants()
    assert manager.tree.gpu_blocks == len(twin.blocks)


@given(trace=st.lists(calls(), max_size=40), capacity=st.integers(1, 24), more=st.integers(1, 10))
@settings(max_examples=150, deadline=None)
def test_lru_hits_never_fall_with_capacity(trace: list[Call], capacity: int, more: int) -> None:
    small, large = (make_manager("lru", size, whole_nodes=False) for size in (capacity, capacity + more))
    for now, call in enumerate(trace):
        assert serve(small, call, float(now)) <= serve(large, call, float(now))
