"""S3-FIFO (Yang et al., SOSP 2023): a small queue that most leave soon, a main one, and a memory of keys.

What is new enters the small queue, or the main one if its key is still remembered. While the small queue
holds a tenth of the tier or more its oldest entry goes: into the main queue if it was used more than once
since it came, else out, and its key is remembered. Otherwise the main queue's oldest goes, unless it was used
since it came: then it moves to the end, and one of its (at most three) uses is forgotten. Remembered are nine
tenths as many keys as there are entries.

Over leaves, in blocks: an entry is a node; the small queue counts it from when it can first go. A node's key
is that of its first run. Two queues are more than one key a node, so this order brings its own queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pbkv.cache.queue import CandidateQueue
from pbkv.cache.visits import Visits

if TYPE_CHECKING:
    from pbkv.cache.blocks import Key
    from pbkv.cache.config import CacheConfig
    from pbkv.cache.tree import Node

_MOST_USES = 3
_SMALL_RATIO = 0.1
_REMEMBERED_RATIO = 0.9
_ALL_BLOCKS = 2**63


class _Entry:
    __slots__ = ("in_main", "num_counted", "place", "uses")

    def __init__(self, in_main: bool, place: int, uses: int = 0) -> None:
        self.in_main = in_main
        self.place = place  # in its queue, by order of coming
        self.uses = uses
        self.num_counted = 0  # blocks, in the small queue


class S3Fifo(Visits[_Entry]):
    """What is known of each node of one tier."""

    def __init__(self, is_host: bool) -> None:
        super().__init__()
        self._is_host = is_host
        self._small_most = 0.0
        self._small_blocks = 0
        self._remembered: dict[Key, None] = {}
        self._num_placed = 0

    def begun(self, config: CacheConfig) -> None:
        self._small_most = _SMALL_RATIO * (config.host_blocks if self._is_host else config.gpu_blocks)

    def make_queue(self, is_candidate: Callable[[Node], bool]) -> S3FifoQueue:
        return S3FifoQueue(self, is_candidate)

    def key(self, node: Node) -> int:
        return self.state(node).place

    def fresh(self, node: Node) -> _Entry:
        self._num_placed += 1
        return _Entry(node.keys[0] in self._remembered, self._num_placed)

    def visited(self, node: Node, state: _Entry) -> _Entry:
        state.uses = min(state.uses + 1, _MOST_USES)
        return state

    def copied(self, state: _Entry) -> _Entry:
        return _Entry(state.in_main, state.place, state.uses)

    def left(self, node: Node, state: _Entry) -> None:
        if not state.in_main:
            self._remembered[node.keys[0]] = None
            while len(self._remembered) > max(_REMEMBERED_RATIO * len(self._states), 1):
                del self._remembered[next(iter(self._remembered))]

    def removed(self, node: Node) -> None:
        if (entry := self._states.get(node.serial)) is not None:
            self._small_blocks -= entry.num_counted
        super().removed(node)

    @property
    def small_is_full(self) -> bool:
        return self._small_blocks >= self._small_most

    def count(self, node: Node) -> _Entry:
        """Count ``node`` (again: it may have been cut)."""
        entry = self.state(node)
        if not entry.in_main:
            self._small_blocks += node.num_blocks - entry.num_counted
            entry.num_counted = node.num_blocks
        return entry

    def spares(self, node: Node) -> bool:
        """Whether ``node``, the oldest of its queue, moves to the end of the main queue instead of going."""
        entry = self.state(node)
        if entry.uses <= (0 if entry.in_main else 1):
            return False
        if entry.in_main:
            entry.uses -= 1
        else:
            self._small_blocks -= entry.num_counted
            entry.in_main, entry.uses, entry.num_counted = True, 0, 0
        self._num_placed += 1
        entry.place = self._num_placed
        return True


class S3FifoQueue:
    """Two lazy heaps by place; which of them gives the next victim is decided when it is asked for."""

    def __init__(self, order: S3Fifo, is_candidate: Callable[[Node], bool]) -> None:
        self._order = order
        self._is_candidate = is_candidate
        places = _Places(order)
        self._small = CandidateQueue(places, lambda n: is_candidate(n) and not order.state(n).in_main)
        self._main = CandidateQueue(places, lambda n: is_candidate(n) and order.state(n).in_main)

    def add(self, node: Node) -> None:
        if self._is_candidate(node):
            (self._main if self._order.count(node).in_main else self._small).add(node)

    def update(self, node: Node) -> None:
        self.add(node)

    def peek(self) -> Node | None:
        while (node := self._first().peek()) is not None and self._order.spares(node):
            self._main.add(node)
        return node

    def walk(self) -> Iterator[Node]:
        """In the order of `leading`, as things stand."""
        return iter(self.leading(_ALL_BLOCKS))

    def leading(self, num_blocks: int) -> list[Node]:
        """As they would go if nothing were spared and the small queue stayed as full as it is."""
        first = self._first()
        found = first.leading(num_blocks)
        left = num_blocks - sum(node.num_blocks for node in found)
        return found + (self._main if first is self._small else self._small).leading(left)

    def pop(self) -> Node | None:
        node = self.peek()
        if node is not None:
            self.take(node)
        return node

    def take(self, node: Node) -> None:
        (self._main if self._order.state(node).in_main else self._small).take(node)
        self._order.evicted(node)

    def _first(self) -> CandidateQueue:
        first, second = self._main, self._small
        if self._order.small_is_full:
            first, second = second, first
        return first if first.peek() is not None else second


class _Places:
    """The order of places alone, without what `CandidateQueue` would tell an order."""

    def __init__(self, order: S3Fifo) -> None:
        self.key = order.key
