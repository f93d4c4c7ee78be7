"""The queue that keeps the next candidate at hand: for eviction on either tier, and for prefetch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pbkv.cache.tree import Node


class Order(Protocol):
    """Whatever gives a node a key; the smallest comes first."""

    def key(self, node: Node) -> Any: ...


_Entry = tuple[Any, int, int, int, "Node"]  # key; the deeper, then the older node first; number of the push


class Queue(Protocol):
    """What the tiers ask of a queue."""

    def add(self, node: Node) -> None: ...
    def update(self, node: Node) -> None: ...
    def peek(self) -> Node | None: ...
    def leading(self, num_blocks: int) -> list[Node]: ...
    def walk(self) -> Iterator[Node]: ...
    def pop(self) -> Node | None: ...
    def take(self, node: Node) -> None: ...


class CandidateQueue:
    """A lazy heap of candidates that survives from one decision to the next.

    One entry of a node is valid, its latest. The entry of a node that is no candidate any more is dropped
    when it comes up; that of a node used meanwhile is replaced then. So a touch costs nothing, and a
    decision O(log n). An order whose keys can fall has ``queued``: whoever knows that a key has changed calls
    ``update``, which notes the node; when the queue is next asked all that were noted get their keys, and
    ``queued`` is told of each candidate. So what changes several times between two questions costs one key.
    Among equal keys the deeper node comes first, then the older one.
    """

    def __init__(self, order: Order, is_candidate: Callable[[Node], bool]) -> None:
        self._key = order.key
        self._is_candidate = is_candidate
        self._evicted: Callable[[Node], None] | None = getattr(order, "evicted", None)
        self._queued: Callable[[Node], None] | None = getattr(order, "queued", None)
        self._heap: list[_Entry] = []
        self._valid: dict[int, _Entry] = {}  # by the node's serial
        self._unsettled: dict[int, Node] = {}  # by serial: to be looked at when the queue is next asked
        self._num_pushed = 0
        self._rebuild_at = 64  # entries

    def add(self, node: Node) -> None:
        """``node`` may be a candidate now (whether it is, is asked again when it comes up)."""
        if self._queued or node.serial not in self._valid:
            self.update(node)

    def update(self, node: Node) -> None:
        """The key of ``node`` may have changed, in either direction. One that rose is replaced later."""
        if self._queued:
            self._unsettled[node.serial] = node
            if len(self._unsettled) >= self._rebuild_at:
                self._settle()
        elif self._is_candidate(node):
            self._enter(node)

    def peek(self) -> Node | None:
        """The candidate that comes first; None if there is none."""
        if self._unsettled:
            self._settle()
        heap, valid = self._heap, self._valid
        while heap:
            entry = heap[0]
            node = entry[4]
            if valid.get(node.serial) is entry:
                if self._is_candidate(node):
                    key = self._key(node)
                    if key == entry[0]:
                        return node
                    heappop(heap)
                    self._push(node, key)
                    continue
                del valid[node.serial]
            heappop(heap)
        return None

    def walk(self) -> Iterator[Node]:
        """The candidates in order; they stay queued. To be closed before anything changes."""
        entries = dict[int, _Entry]()
        try:
            while (node := self.peek()) is not None:
                entry = heappop(self._heap)
                if node.serial not in entries:  # a push on the way may have put all valid entries back
                    entries[node.serial] = entry
                    yield node
        finally:
            for entry in entries.values():
                heappush(self._heap, entry)

    def leading(self, num_blocks: int) -> list[Node]:
        """The candidates that come first, in order, until they hold ``num_blocks``; they stay queued."""
        entries, held = dict[int, _Entry](), 0
        while held < num_blocks and (node := self.peek()) is not None:
            entry = heappop(self._heap)
            if node.serial not in entries:  # a push on the way may have put all valid entries back
                entries[node.serial] = entry
                held += node.num_blocks
        for entry in entries.values():
            heappush(self._heap, entry)
        return [entry[4] for entry in entries.values()]

    def pop(self) -> Node | None:
        """The candidate that comes first, no longer queued; None if there is none."""
        node = self.peek()
        if node is not None:
            self.take(node)
        return node

    def take(self, node: Node) -> None:
        """``node``, which `peek` has just found, is no longer queued."""
        heappop(self._heap)
        del self._valid[node.serial]
        if self._evicted:
            self._evicted(node)

    def _settle(self) -> None:
        """Give all whose key may have fallen, or who may be candidates now, the keys that they have now."""
        unsettled, self._unsettled = self._unsettled, {}
        for node in unsettled.values():
            if self._is_candidate(node):
                self._enter(node)
                if self._queued:
                    self._queued(node)

    def _enter(self, node: Node) -> None:
        key, entry = self._key(node), self._valid.get(node.serial)
        if entry is None or key < entry[0]:
            self._push(node, key)

    def _push(self, node: Node, key: Any) -> None:
        self._num_pushed += 1
        entry = self._valid[node.serial] = (key, -node.end, node.serial, self._num_pushed, node)
        heappush(self._heap, entry)
        if len(self._heap) >= self._rebuild_at:
            self._rebuild()

    def _rebuild(self) -> None:
        """Only valid entries; where each candidate is queued anew anyway, only those of candidates."""
        if self._queued:
            for serial in [s for s, entry in self._valid.items() if not self._is_candidate(entry[4])]:
                del self._valid[serial]
        self._heap[:] = self._valid.values()
        heapify(self._heap)
        self._rebuild_at = 4 * len(self._heap) + 64


def candidate_queue(order: Order, is_candidate: Callable[[Node], bool]) -> Queue:
    """A queue in that order; an order that is more than a key a node has a ``make_queue`` of its own."""
    make_queue: Callable[[Callable[[Node], bool]], Queue] | None = getattr(order, "make_queue", None)
    return CandidateQueue(order, is_candidate) if make_queue is None else make_queue(is_candidate)
