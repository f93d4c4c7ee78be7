"""Prefetch: what is copied up before anybody asks for it, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pbkv.cache.tiers import Tiers
    from pbkv.cache.tree import Node


@dataclass(frozen=True, slots=True)
class Situation:
    """What the engine is doing when it asks for a prefetch.

    ``step_blocks`` is what the link copies while one decode iteration runs (paper §4.3: S_bw, running
    mean of its bandwidth × running mean of the iteration), ``num_in_flight`` prefetches not yet ended.
    """

    is_pure_decode: bool
    step_blocks: int
    num_in_flight: int


class Prefetch(Protocol):
    """The plug point: which entries of the host tier are worth copying up, and at whose cost.

    Candidates are on the host alone, below a parent on the GPU. ``key`` orders them, the smallest first.
    """

    def key(self, node: Node) -> Any: ...

    def wants(self, node: Node) -> bool:
        """Whether ``node``, now the first in order, is wanted at all."""
        ...

    def budget(self, situation: Situation) -> int:
        """How many blocks may be started now."""
        ...

    def displaceable(self, tiers: Tiers) -> Callable[[Node], bool]:
        """For one decision: whether the next victim in order of eviction may go for a prefetch."""
        ...


@dataclass(slots=True)
class PrefetchCounts:
    """Blocks by what became of their prefetch.

    ``useful``: on the GPU when first used; ``late``: still on its way, and waited for; ``wasted``: left
    the GPU unused, or was never used; ``cancelled``: given up before its copy began. ``started`` is their
    sum when a run has ended.
    """

    started: int = 0
    useful: int = 0
    late: int = 0
    cancelled: int = 0

    @property
    def wasted(self) -> int:
        """Of those started, what was of no use by now."""
        return self.started - self.useful - self.late - self.cancelled
