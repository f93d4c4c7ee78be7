"""Eviction orders that look at a node alone: what every engine has, and the controls.

An order gives a leaf a key; the smallest goes first. Among equal keys the deeper leaf goes first, then
the older one.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pbkv.cache.tree import Node


class EvictionOrder(Protocol):
    """The plug point of an eviction policy: one method.

    ``key`` is asked when a node becomes a candidate and again before it goes. It may grow while the
    node is a candidate (it was used) and must not shrink. Where single blocks are evicted, an order may
    have ``tail_blocks(node)``: how many of a node's last blocks its key holds for (else all).
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
