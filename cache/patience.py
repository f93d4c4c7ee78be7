"""Who waits rather than displace what older workflows are about to read.

A request that needs room may have to evict entries of active workflows that arrived before it. They will be
read again with some chance and must then be computed again: a cost in seconds of the engine,

    cost = Σ over the next victims of chance · seconds of the miss,

the miss being a copy from the host as far as the host will have kept it, else a prefill at that depth. As
long as the request waits, one of the B running sequences' shares of the engine is not used: it loses 1/B of
a second a second. So it waits until the two are equal,

    submitted + B · cost,

and then starts whatever it displaces. Without knowing how long the wait would have been this never costs
more than twice the better of both (the ski-rental argument), and it bounds every wait. Requests that need
no room, or only that of retired or younger workflows, start at once: what is resident goes first.

An answer holds until a call ends or its time is up, so that an engine that asks more often is told the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbkv.cache.follower import NOTHING, Changed, Follower

if TYPE_CHECKING:
    from pbkv.cache.activity import Activity
    from pbkv.cache.arrivals import Arrivals
    from pbkv.cache.config import CacheConfig
    from pbkv.cache.decisions import Lease
    from pbkv.cache.known import Known
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.scheduling import Waiting
    from pbkv.cache.tree import Node
    from pbkv.traces.schema import Workflow

_Ask = tuple[str, int]  # a workflow's call
_LOOKED_AHEAD = 2.0  # a request's next look is at most this multiple of its wait so far away …
_FADES = 0.99  # at each entry that leaves
_LEAST_WAIT_S = 0.5  # … and no nearer than this: the walk over victims ends there


class Patience(Follower):
    """Follows workflows, and is the admission rule. ``number`` says who is older."""

    def __init__(self, activity: Activity, arrivals: Arrivals, known: Known) -> None:
        self._chance, self._number, self._known = activity.score, arrivals.number, known
        self._waiting: dict[str, set[int]] = {}
        self._running: set[_Ask] = set()
        self._until_s: dict[_Ask, tuple[int, float]] = {}  # refused: at which change, and until when
        self._num_changes = 0
        self._left = [1.0, 0.0]  # blocks that no tier has any more, fading: of retired and of active entries
        self._host_is_larger = False

    def begun(self, config: CacheConfig) -> None:
        self._host_is_larger = config.host_blocks > config.gpu_blocks

    # ------------------------------------------------------------------ what happens

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        self._waiting.setdefault(workflow.workflow_id, set()).add(position)
        return NOTHING

    def touched(self, node: Node, lease: Lease) -> None:
        for position in self._waiting.pop(lease.owner, ()):
            self._running.add((lease.owner, position))
            self._until_s.pop((lease.owner, position), None)

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        self._running.discard((workflow.workflow_id, position))
        self._num_changes += 1
        return NOTHING

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        self._num_changes += 1
        return NOTHING

    def removed(self, node: Node) -> None:
        self._left = [blocks * _FADES for blocks in self._left]
        self._left[bool(node.tags)] += node.num_blocks

    # ------------------------------------------------------------------ what is asked

    def admits(self, request: Waiting, manager: CacheManager, now_s: float) -> bool:
        ask = request.described.workflow_id, request.position
        change, until_s = self._until_s.get(ask, (-1, 0.0))
        if change == self._num_changes and now_s < until_s:
            return False
        until_s = self._waits_until_s(request, manager, now_s)
        if until_s <= now_s:
            self._until_s.pop(ask, None)
            return True
        self._until_s[ask] = self._num_changes, until_s
        return False

    def next_change_s(self) -> float:
        return min((until_s for _, until_s in self._until_s.values()), default=float("inf"))

    def _waits_until_s(self, request: Waiting, manager: CacheManager, now_s: float) -> float:
        """When the wait will have cost what it saves; the sum ends where that is far enough ahead."""
        tiers, path = manager.tiers, request.path
        missing = path.num_blocks - tiers.free_blocks - tiers.pending_free_blocks
        at_s = request.submitted_at_s
        if missing <= 0:
            return at_s
        held = {node for node in manager.tree.match(path, path.hit_limit).nodes if node.gpu}
        missing -= sum(node.num_blocks for node in held)
        enough_s = now_s + max(_LEAST_WAIT_S, (_LOOKED_AHEAD - 1) * (now_s - at_s))
        number = self._number(request.described.workflow_id)
        for node in tiers.next_victims():
            if missing <= 0 or at_s > enough_s:
                break
            if node not in held:
                share = min(1.0, missing / node.num_blocks)
                at_s += len(self._running) * share * self._cost_s(node, number)
                missing -= node.num_blocks
        return at_s

    def _cost_s(self, node: Node, number: int) -> float:
        """Expected seconds that its eviction costs workflows older than ``number``."""
        if not node.tags or min(map(self._number, node.tags)) >= number:
            return 0.0
        costs, size = self._known.costs, self._known.block_size
        load_s = costs.load_s(node.num_blocks * size)
        prefill_s = costs.prefill_s(node.start * size, node.num_blocks * size)
        stays = self._stays(node)
        return min(self._chance(node), 1.0) * (stays * load_s + (1.0 - stays) * prefill_s)

    def _stays(self, node: Node) -> float:
        """The chance that a copy on the host outlives the one on the GPU.

        Where copies are made at insertion, a host no larger than the GPU holds what the GPU holds. A larger
        one keeps active entries as long as retired ones go in their place.
        """
        if self._known.copies_at_eviction:
            return 1.0
        if not (node.host and self._host_is_larger):
            return 0.0
        return self._left[False] / sum(self._left)
