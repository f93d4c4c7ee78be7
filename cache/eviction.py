"""Eviction orders, and the queue that keeps the next victim at hand.

An order gives a leaf a key; the smallest goes first. Among equal keys the deeper leaf goes first,
then the one that became a candidate earlier.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol

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


class EvictionQueue:
    """A lazy heap of candidates that survives from one eviction to the next.

    One entry of a node is valid, its latest. The entry of a node that is no candidate any more is dropped
    when it comes up; that of a node used meanwhile is replaced then. So a touch costs nothing, and a victim
    O(log n). An order whose keys can fall has ``queued``: it is told of each entry made, and whoever knows
    that a key has changed calls ``update``.
    """

    def __init__(self, order: EvictionOrder, is_candidate: Callable[[Node], bool]) -> None:
        self._order = order
        self._is_candidate = is_candidate
        self._evicted: Callable[[Node], None] | None = getattr(order, "evicted", None)
        self._queued: Callable[[Node], None] | None = getattr(order, "queued", None)
        self._heap: list[tuple[Any, int, int, Node]] = []
        self._valid: dict[int, int] = {}  # number of the valid entry, by the node's serial
        self._num_pushed = 0

    def add(self, node: Node) -> None:
        """``node`` may be a candidate now (whether it is, is asked again when it comes up)."""
        if (self._queued or node.serial not in self._valid) and self._is_candidate(node):
            self._push(node)

    def update(self, node: Node) -> None:
        """The key of ``node`` may have changed, in either direction."""
        if self._is_candidate(node):
            self._push(node)

    def pop(self) -> Node | None:
        """The candidate to go first, no longer queued; None if there is none."""
        heap, key, valid = self._heap, self._order.key, self._valid
        while heap:
            entry_key, _, number, node = heappop(heap)
            if valid.get(node.serial) != number:
                continue
            del valid[node.serial]
            if not self._is_candidate(node):
                continue
            if key(node) == entry_key:
                if self._evicted:
                    self._evicted(node)
                return node
            self._push(node)
        return None

    def _push(self, node: Node) -> None:
        self._num_pushed += 1
        self._valid[node.serial] = self._num_pushed
        heappush(self._heap, (self._order.key(node), -node.end, self._num_pushed, node))
        if self._queued:
            self._queued(node)
            if len(self._heap) > 4 * len(self._valid) + 64:
                self._compact()

    def _compact(self) -> None:
        self._heap = [entry for entry in self._heap if self._valid.get(entry[3].serial) == entry[2]]
        heapify(self._heap)
