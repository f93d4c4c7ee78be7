"""Eviction orders, and the queue that keeps the next victim at hand.

An order gives a leaf a key; the smallest goes first. Among equal keys the deeper leaf goes first,
then the one that became a candidate earlier.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol

from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.cache.tree import Node


class EvictionOrder(Protocol):
    """The plug point of an eviction policy: one method.

    ``key`` is asked when a node becomes a candidate and again before it goes. It may grow while the
    node is a candidate (it was used) and must not shrink.
    """

    def key(self, node: Node) -> Any: ...


class Lru:
    """Least recently used first. A match stamps its whole path (SGLang's default)."""

    def key(self, node: Node) -> float:
        return node.last_access_s


class Fifo:
    """Oldest insertion first, whatever its use."""

    def key(self, node: Node) -> float:
        return node.made_at_s


class Lfu:
    """Fewest requests first, then least recently used. Counts live as long as their node."""

    def key(self, node: Node) -> tuple[int, float]:
        return node.num_hits, node.last_access_s


class Slru:
    """Segmented LRU: what one request alone has touched goes first; LRU within each segment."""

    def key(self, node: Node) -> tuple[bool, float]:
        return node.num_hits >= 2, node.last_access_s


class Random:
    """Every candidate is equally likely at each eviction.

    A candidate's key is the key of the last victim plus an exponential draw: by its lack of memory
    the smallest of n such keys falls on each of the n alike, new or old.
    """

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed).expovariate
        self._last = 0.0
        self._keys: dict[int, float] = {}

    def key(self, node: Node) -> float:
        drawn = self._keys.get(node.serial, -1.0)
        if drawn < self._last:
            drawn = self._keys[node.serial] = self._last + self._draw(1.0)
        return drawn

    def evicted(self, node: Node) -> None:
        self._last = self._keys.pop(node.serial)


ORDERS: dict[str, Callable[[int], EvictionOrder]] = {
    "lru": lambda seed: Lru(),
    "fifo": lambda seed: Fifo(),
    "lfu": lambda seed: Lfu(),
    "slru": lambda seed: Slru(),
    "random": Random,
}


def make_order(policy: str, seed: int) -> EvictionOrder:
    """The eviction order called ``policy``. Raises ConfigError for a name that is not known."""
    if policy not in ORDERS:
        raise ConfigError("policy", policy, "one of " + ", ".join(ORDERS))
    return ORDERS[policy](seed)


class EvictionQueue:
    """A lazy heap of candidates that survives from one eviction to the next.

    A node has at most one entry. The entry of a node that is no candidate any more is dropped when it
    comes up; a node used meanwhile goes back with its new key. So a touch costs nothing, and a victim
    O(log n).
    """

    def __init__(self, order: EvictionOrder, is_candidate: Callable[[Node], bool]) -> None:
        self._order = order
        self._is_candidate = is_candidate
        self._evicted: Callable[[Node], None] = getattr(order, "evicted", lambda node: None)
        self._heap: list[tuple[Any, int, int, Node]] = []
        self._queued: set[int] = set()
        self._num_pushed = 0

    def add(self, node: Node) -> None:
        """``node`` may be a candidate now (whether it is, is asked again when it comes up)."""
        if node.serial not in self._queued and self._is_candidate(node):
            self._queued.add(node.serial)
            self._push(node)

    def pop(self) -> Node | None:
        """The candidate to go first, no longer queued; None if there is none."""
        heap, key = self._heap, self._order.key
        while heap:
            entry_key, _, _, node = heappop(heap)
            if not self._is_candidate(node):
                self._queued.discard(node.serial)
            elif key(node) != entry_key:
                self._push(node)
            else:
                self._queued.discard(node.serial)
                self._evicted(node)
                return node
        return None

    def _push(self, node: Node) -> None:
        self._num_pushed += 1
        heappush(self._heap, (self._order.key(node), -node.end, self._num_pushed, node))
