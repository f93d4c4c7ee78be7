"""What the manager decides, as data: the simulator turns it into seconds, the replay into copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from pbkv.cache.blocks import BlockPath
    from pbkv.cache.tree import Node

EventKind = Literal["evict", "demote", "drop", "offload", "load", "prefetch", "cancel"]
Reason = Literal["admit", "grow", "host_room", "write", "early", "prefetch"]


class CacheEvent(NamedTuple):
    """One line of the eviction and copy log, in the order of the table (`pbkv.traces.records.EVENTS`).

    ``num_bytes`` and the last two are those of copies, filled in by the engine.
    """

    at_s: float
    kind: EventKind
    num_blocks: int
    num_bytes: int | None
    owner: str  # the workflow that made the entry
    by: str  # the workflow whose need caused the event
    reason: Reason
    age_s: float  # since the entry's last use
    lifetime_s: float  # since it was made
    queued_s: float | None = None
    copy_s: float | None = None


@dataclass(eq=False, slots=True)
class Load:
    """Copy ``nodes`` from the host to the GPU. In flight until `CacheManager.end_load`.

    A prefetch holds its own protection, on ``pinned``; a load is held by the lease that asked for it.
    """

    nodes: list[Node]
    event: CacheEvent
    pinned: Node | None = None
    waiters: list[Any] = field(default_factory=list)  # requests that cannot start before its end

    @property
    def num_blocks(self) -> int:
        return self.event.num_blocks

    @property
    def is_prefetch(self) -> bool:
        return self.pinned is not None


@dataclass(eq=False, slots=True)
class Offload:
    """Copy ``nodes`` from the GPU to the host. In flight until `CacheManager.end_offload`.

    With ``evicts`` the GPU space goes back when the copy ends (write-back, exclusive).
    """

    nodes: list[Node]
    event: CacheEvent
    pinned: Node
    evicts: bool

    @property
    def num_blocks(self) -> int:
        return self.event.num_blocks


@dataclass(eq=False, slots=True)
class Lease:
    """What an admitted request holds: the tree down to ``node`` protected, private blocks behind it."""

    path: BlockPath
    owner: str  # a workflow
    agent: str
    node: Node


@dataclass(slots=True)
class Admission:
    """A request's start: what of its prompt was found, in tokens, and the copies it waits for.

    ``load`` is to be carried out; ``waits_for`` are loads of others already in flight on the same path.
    """

    lease: Lease
    gpu_hit_tokens: int
    host_hit_tokens: int
    loading_tokens: int
    load: Load | None
    waits_for: list[Load]

    @property
    def cached_tokens(self) -> int:
        """Tokens that need no prefill."""
        return self.gpu_hit_tokens + self.host_hit_tokens + self.loading_tokens


@dataclass(frozen=True, slots=True)
class Misses:
    """Why the rest of the prompt was not found, in tokens, and who evicted the first evicted block."""

    evicted_tokens: int
    partial_tokens: int
    cold_tokens: int
    evicted_by: str | None
    evicted_ago_s: float | None
