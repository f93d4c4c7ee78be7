"""Time-to-live pinning (Continuum, arXiv 2511.02230): what waits for a tool stays, for as long as it pays.

When a call ends and its workflow acts, the call's path is pinned for τ. ``ttl:2``: τ fixed, in seconds (its
public release). ``ttl``: τ* = argmax over τ of P(τ, f) · (T·η + reload) − share · τ, where P is the empirical
distribution of the waits after f (of all, while f has fewer than 100), T the mean wait in the engine's queue
per block of context times this context's blocks, η = −corr(calls done, calls left) over ended workflows,
reload the seconds to compute the context again or, with a host tier, to copy it up if that is less, and share
the context's share of the GPU tier. τ* is one of the waits seen, or 0; before any was seen it is 2 s.

Our reading: our calls have no tool names, so f is the agent that called; the last 256 waits of each f count.
A request that came back in time keeps its pin until its prompt has been computed. Pinned is a class of its
own behind all that is not; when all is pinned the workflow that arrived last is unpinned. Order of requests:
those that came back in time, then by arrival of their workflows. The host tier is LRU.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from pbkv.cache.follower import NOTHING, Changed, Follower

if TYPE_CHECKING:
    from pbkv.cache.best_ttl import FixedTtl
    from pbkv.cache.config import CacheConfig
    from pbkv.cache.decisions import Lease
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.scheduling import Waiting
    from pbkv.cache.tree import Node
    from pbkv.traces.schema import Workflow


class _Live:
    """One workflow. ``expires_at_s`` None: not pinned; inf: pinned until its prompt is computed."""

    __slots__ = (
        "agent",
        "ended_at_s",
        "expires_at_s",
        "node",
        "num_blocks",
        "num_running",
        "number",
        "pinned",
        "since_s",
    )

    def __init__(self, number: int) -> None:
        self.number = number  # of arrival
        self.num_running = 0
        self.node: Node | None = None  # the deepest it has used last
        self.num_blocks = 0
        self.agent = ""
        self.since_s: float | None = None  # waits in the engine's queue
        self.ended_at_s: float | None = None  # its last call, if it acts
        self.expires_at_s: float | None = None
        self.pinned: Node | None = None  # the deepest


class Pins(Follower):
    """Who is pinned. A node's tags are the workflows that pin it, each with its number of arrival."""

    def __init__(self, ttl: FixedTtl) -> None:
        self._ttl = ttl
        self._live: dict[str, _Live] = {}
        self._num_arrived = 0
        self._expiries: list[tuple[float, int, str]] = []
        self._fallen: list[Node] = []

    def begun(self, config: CacheConfig) -> None:
        self._ttl.begun(config)

    def rank(self, workflow_id: str) -> tuple[bool, int]:
        """Whether the workflow is not back in time, and its number in order of arrival (unknown: the next).

        One look-up: it is asked of all that wait, whenever somebody may start.
        """
        live = self._live.get(workflow_id)
        if live is None:
            return True, self._num_arrived + 1
        return live.expires_at_s is None, live.number

    # ------------------------------------------------------------------ what happens

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        changed = self.passed(now_s)
        name = workflow.workflow_id
        live = self._live.get(name)
        if live is None:
            self._num_arrived += 1
            live = self._live[name] = _Live(self._num_arrived)
        if live.ended_at_s is not None:
            self._ttl.waited(live.agent, now_s - live.ended_at_s)
            live.ended_at_s = None
        live.num_running += 1
        live.since_s = now_s
        if live.expires_at_s is not None:
            live.expires_at_s = float("inf")
        return changed

    def touched(self, node: Node, lease: Lease) -> None:
        live = self._live.get(lease.owner)
        if live is not None:
            live.node, live.num_blocks = node, lease.path.num_blocks
            if live.since_s is not None:
                self._ttl.queued(node.last_access_s - live.since_s, live.num_blocks)
                live.since_s = None

    def computed(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        return [*self.passed(now_s), *self._unpin(workflow.workflow_id)]

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        changed = self.passed(now_s)
        live = self._live.get(workflow.workflow_id)
        if live is None:
            return changed
        live.num_running -= 1
        if live.num_running <= 0:
            live.agent, live.ended_at_s = workflow.calls[position].agent, now_s
            ttl_s = self._ttl.ttl_s(live.agent, live.num_blocks)
            changed = [*changed, *self._unpin(workflow.workflow_id)]
            if ttl_s > 0 and live.node is not None:
                self._pin(workflow.workflow_id, live, now_s + ttl_s)
        return changed

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        changed = [*self.passed(now_s), *self._unpin(workflow.workflow_id)]
        if self._live.pop(workflow.workflow_id, None) is not None:
            self._ttl.ended(len(workflow.calls))
        return changed

    def passed(self, now_s: float) -> Changed:
        if not self._fallen and not (self._expiries and self._expiries[0][0] <= now_s):
            return NOTHING
        changed, self._fallen = self._fallen, []
        while self._expiries and self._expiries[0][0] <= now_s:
            expires_at_s, _, name = heappop(self._expiries)
            if (live := self._live.get(name)) is not None and live.expires_at_s == expires_at_s:
                changed += self._unpin(name)
        return changed

    def next_due_s(self) -> float:
        return self._expiries[0][0] if self._expiries else float("inf")

    def gave_way(self, node: Node) -> None:
        """A pinned node has been evicted: everything was pinned. Who pinned it is unpinned."""
        for name in list(node.tags or ()):
            self._fallen += self._unpin(name)

    # ------------------------------------------------------------------ pins

    def _pin(self, name: str, live: _Live, expires_at_s: float) -> None:
        live.expires_at_s, live.pinned = expires_at_s, live.node
        heappush(self._expiries, (expires_at_s, live.number, name))
        at = live.pinned
        while at is not None and at.parent is not None:
            if at.tags is None:
                at.tags = {}
            at.tags[name] = live.number
            at = at.parent

    def _unpin(self, name: str) -> list[Node]:
        live = self._live.get(name)
        if live is None or live.expires_at_s is None:
            return []
        fallen: list[Node] = []
        at = live.pinned
        live.expires_at_s = live.pinned = None
        while at is not None:
            if at.tags and at.tags.pop(name, None) is not None:
                fallen.append(at)
            at = at.parent
        return fallen


class UnpinnedFirst:
    """LRU of what is not pinned; then what is, of the workflow that arrived last first."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins

    def key(self, node: Node) -> tuple[int, float, int, int]:
        if node.tags:
            return 1, -min(node.tags.values()), -node.end, node.serial
        return 0, node.last_access_s, -node.end, node.serial

    def queued(self, node: Node) -> None:
        """Keys fall when a pin ends."""

    def evicted(self, node: Node) -> None:
        if node.tags:
            self._pins.gave_way(node)


class InTimeFirst:
    """Requests of workflows that came back in time, then by arrival of the workflows."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins

    def key(self, request: Waiting, manager: CacheManager, now_s: float) -> tuple[bool, int, int]:
        is_late, number = self._pins.rank(request.described.workflow_id)
        return is_late, number, request.position
