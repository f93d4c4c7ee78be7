"""GDSF, SIEVE and S3-FIFO on a flat cache against plain twins, and on the tree as short stories."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import make_policy
from pbkv.cache.policy import PolicyOptions, PrefillCost
from tests.cache.world import World, flow

B = 4
COST = PrefillCost(1.0, 0.5, 0.0)


class Twin(Protocol):
    def hit(self, item: int) -> bool: ...


class PlainSieve:
    """A list, oldest first, and a hand: the algorithm as in its paper."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: list[int] = []
        self._visited: set[int] = set()
        self._hand = 0

    def hit(self, item: int) -> bool:
        if item in self._items:
            self._visited.add(item)
            return True
        if len(self._items) == self._capacity:
            self._evict()
        self._items.append(item)
        return False

    def _evict(self) -> None:
        if self._hand >= len(self._items):
            self._hand = 0
        while self._items[self._hand] in self._visited:
            self._visited.remove(self._items[self._hand])
            self._hand = (self._hand + 1) % len(self._items)
        del self._items[self._hand]


class PlainS3Fifo:
    """Two queues and a memory."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._uses: dict[int, int] = {}
        self._remembered: deque[int] = deque()

    def hit(self, item: int) -> bool:
        if item in self._uses:
            self._uses[item] = min(self._uses[item] + 1, 3)
            return True
        while len(self._uses) == self._capacity:
            self._evict()
        (self._main if item in self._remembered else self._small).append(item)
        self._uses[item] = 0
        return False

    def _evict(self) -> None:
        if self._small and (len(self._small) >= 0.1 * self._capacity or not self._main):
            oldest = self._small.popleft()
            if self._uses[oldest] > 1:
                self._uses[oldest] = 0
                self._main.append(oldest)
                return
            if oldest in self._remembered:
                self._remembered.remove(oldest)
            self._remembered.append(oldest)
            while len(self._remembered) > max(0.9 * self._capacity, 1):
                self._remembered.popleft()
        else:
            oldest = self._main.popleft()
            if self._uses[oldest]:
                self._uses[oldest] -= 1
                self._main.append(oldest)
                return
        del self._uses[oldest]


class PlainGdsf:
    """Keys in a dictionary, all of them looked at. Items cost the same, so uses alone tell them apart."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._inflation = 0.0
        self._items: dict[int, tuple[float, int, int]] = {}  # key, last use, uses
        self._now = 0

    def hit(self, item: int) -> bool:
        self._now += 1
        is_hit = item in self._items
        if not is_hit and len(self._items) == self._capacity:
            oldest = min(self._items, key=lambda known: self._items[known][:2])
            self._inflation = self._items.pop(oldest)[0]
        uses = self._items[item][2] + 1 if is_hit else 1
        self._items[item] = (self._inflation + uses * 1.5, self._now, uses)
        return is_hit


TWINS: dict[str, type[PlainSieve] | type[PlainS3Fifo] | type[PlainGdsf]] = {
    "sieve": PlainSieve,
    "s3-fifo": PlainS3Fifo,
    "gdsf": PlainGdsf,
}


def serve(manager: CacheManager, item: int, now_s: float) -> bool:
    """A prompt of one full block; whether it was found."""
    path = manager.table.path((item, 1000), (B, 1))
    admission = manager.admit(path, "w", now_s, B)
    assert admission is not None
    manager.finish(admission.lease, path, B, now_s)
    return admission.gpu_hit_tokens == B


@pytest.mark.parametrize("policy", TWINS)
@given(items=st.lists(st.integers(0, 15), max_size=150), capacity=st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_every_hit_is_the_twins(policy: str, items: list[int], capacity: int) -> None:
    config = CacheConfig(capacity, 0, B)
    manager = CacheManager(
        config, PathTable(B), make_policy(policy, options=PolicyOptions(prefill_cost=COST))
    )
    twin: Twin = TWINS[policy](capacity)
    for now, item in enumerate(items):
        assert serve(manager, item, float(now)) == twin.hit(item), now
        manager.check_invariants()


@pytest.mark.parametrize("policy", TWINS)
def test_each_resists_a_scan(policy: str) -> None:
    """Two items are used again and again, five strangers pass by each time: LRU loses the two."""
    items = [item for turn in range(6) for item in (0, 0, 0, 1, 1, 1, *range(100 + 5 * turn, 105 + 5 * turn))]
    found = {}
    for name in (policy, "lru"):
        manager = CacheManager(CacheConfig(4, 0, B), PathTable(B), make_policy(name))
        found[name] = sum(serve(manager, item, float(now)) for now, item in enumerate(items))
    assert found[policy] > found["lru"]


@pytest.mark.parametrize("policy", ["sieve", "s3-fifo", "gdsf"])
def test_a_use_marks_the_whole_path_and_a_scan_leaves_it(policy: str) -> None:
    """x's prompt has been used thrice; four strangers pass by."""
    world = World(policy, 8)
    for _ in range(3):
        world.serve(flow("x", "a", own=12))
    for name in "pqrs":
        world.serve(flow(name, "b", own=8))
    assert world.blocks_of(flow("x", "a", own=12)) == 3
    lru = World("lru", 8)
    for _ in range(3):
        lru.serve(flow("x", "a", own=12))
    for name in "pqrs":
        lru.serve(flow(name, "b", own=8))
    assert lru.blocks_of(flow("x", "a", own=12)) == 0


def test_gdsf_keeps_what_costs_more_to_compute_again() -> None:
    """Both were used once; the deeper one costs more a block where attention dominates."""
    world = World("gdsf", 12, options=PolicyOptions(prefill_cost=PrefillCost(0.0, 1e-6, 1.0)))
    deep, flat = flow("x", "a", own=24), flow("y", "b", own=8)
    world.serve(deep)
    world.serve(flat)
    world.serve(flow("z", "c", own=20))
    assert (world.blocks_of(deep), world.blocks_of(flat)) == (6, 0)
