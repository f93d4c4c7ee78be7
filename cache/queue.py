"""The queue that keeps the next candidate at hand: for eviction on either tier, and for prefetch."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pbkv.cache.tree import Node


class Order(Protocol):
    """Whatever gives a node a key; the smallest comes first."""

    def key(self, node: Node) -> Any: ...


class CandidateQueue:
    """A lazy heap of candidates that survives from one decision to the next.

    One entry of a node is valid, its latest. The entry of a node that is no candidate any more is dropped
    when it comes up; that of a node used meanwhile is replaced then. So a touch costs nothing, and a
    decision O(log n). An order whose keys can fall has ``queued``: it is told of each entry made, and
    whoever knows that a key has changed calls ``update``. Among equal keys the deeper node comes first.
    """

    def __init__(self, order: Order, is_candidate: Callable[[Node], bool]) -> None:
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

    def peek(self) -> Node | None:
        """The candidate that comes first; None if there is none."""
        heap, key, valid = self._heap, self._order.key, self._valid
        while heap:
            entry_key, _, number, node = heap[0]
            if valid.get(node.serial) == number:
                if not self._is_candidate(node):
                    del valid[node.serial]
                elif key(node) == entry_key:
                    return node
                else:
                    heappop(heap)
                    self._push(node)
                    continue
            heappop(heap)
        return None

    def pop(self) -> Node | None:
        """The same, no longer queued."""
        node = self.peek()
        if node is not None:
            heappop(self._heap)
            del self._valid[node.serial]
            if self._evicted:
                self._evicted(node)
        return node

    def _push(self, node: Node) -> None:
        self._num_pushed += 1
        self._valid[node.serial] = self._num_pushed
        heappush(self._heap, (self._order.key(node), -node.end, self._num_pushed, node))
        if self._queued:
            self._queued(node)
            if len(self._heap) > 4 * len(self._valid) + 64:
                self._compact()

    def _compact(self) -> None:
        self._heap[:] = [entry for entry in self._heap if self._valid.get(entry[3].serial) == entry[2]]
        heapify(self._heap)
