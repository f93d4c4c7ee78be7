"""The two tiers: who has space on the GPU and on the host, and who gives it up.

Evictions take effect at once and are logged in ``events``; what takes time (an offload) is decided here
and carried out by the engine, which says when it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pbkv.cache.blocks import Key
from pbkv.cache.config import CacheConfig, WriteMode
from pbkv.cache.decisions import CacheEvent, EventKind, Lease, Offload, Reason
from pbkv.cache.follower import Follower, overriding
from pbkv.cache.pages import Pages
from pbkv.cache.policy import Policy
from pbkv.cache.prefetch import PrefetchCounts
from pbkv.cache.queue import CandidateQueue, candidate_queue
from pbkv.cache.tree import Node, PrefixTree, deepest_first, parent_of
from pbkv.traces.errors import InvariantError

_HITS_BEFORE_WRITE = {WriteMode.WRITE_THROUGH: 1, WriteMode.SELECTIVE: 2}


class Tiers:
    """Owns the tree, the free space of both tiers and their eviction queues.

    GPU blocks are free, private to a request (the manager's business), or in the tree.
    """

    def __init__(self, config: CacheConfig, policy: Policy, pages: Pages) -> None:
        self.config = config
        self.pages = pages
        self.tree = PrefixTree()
        self.free_blocks = config.gpu_blocks
        self.free_host_blocks = config.host_blocks
        self.pending_free_blocks = 0  # come free when write-back copies end
        self.events: list[CacheEvent] = []
        self.offloads: list[Offload] = []
        self.evicted: dict[Key, tuple[float, str]] = {}  # of the last copy's end: when, and for whom
        self.is_exclusive = config.write_mode is WriteMode.EXCLUSIVE
        self.prefetched = PrefetchCounts()
        self._touched = overriding(policy.followers, Follower.touched)
        self._timed = [f for f in policy.followers if type(f).passed is not Follower.passed]
        self._cut = overriding(policy.followers, Follower.cut)
        self._tail_blocks: Callable[[Node], int] | None = getattr(policy.gpu_order, "tail_blocks", None)
        self._removed = overriding(policy.followers, Follower.removed)
        self._gpu_queue = candidate_queue(policy.gpu_order, _is_gpu_candidate)
        self._host_queue = candidate_queue(policy.host_order, _is_host_candidate)
        self.ahead = CandidateQueue(policy.prefetch, _is_ahead_candidate) if policy.prefetch else None
        self._write_at = _HITS_BEFORE_WRITE.get(config.write_mode) if config.host_blocks else None
        self._writes_at_eviction = self._write_at is None and config.host_blocks > 0

    @property
    def evictable_blocks(self) -> int:
        return self.tree.gpu_blocks - self.tree.protected_blocks

    @property
    def is_making_room(self) -> bool:
        """Whether copies in flight will free GPU blocks when they end (write-back, exclusive)."""
        return self.pending_free_blocks > 0

    def touch(self, nodes: Sequence[Node], lease: Lease, now_s: float) -> None:
        """``lease`` uses ``nodes``, from the top; in the write-through modes their copies may be due now."""
        writes, gives_up = self._write_at is not None, self.is_exclusive and self.config.early_blocks
        for node in nodes:
            node.last_access_s = now_s
            node.num_hits += 1
            if writes and not node.host:
                self._write(node, now_s)
            if node.prefetched:
                self._use_prefetched(node)
            if gives_up and node.host and node.gpu and not (node.load or node.offload):
                self.release_host(node)  # copied down early, and wanted after all
        if nodes:
            for touched in self._touched:
                touched(nodes[-1], lease)

    def rescored(self, nodes: Sequence[Node]) -> None:
        """What is expected of ``nodes`` has changed, and so perhaps who goes first."""
        for node in nodes:
            if node.gpu:
                self._gpu_queue.update(node)
            else:
                self._host_queue.update(node)
                if self.ahead is not None:
                    self.ahead.update(node)

    def split(self, node: Node, at_block: int) -> Node:
        """Cut ``node`` at ``at_block``; the new upper half."""
        upper = self.tree.split(node, at_block)
        self.pages.cut(upper, node)
        for cut in self._cut:
            self.rescored(cut(upper, node))
        if self.ahead is not None and not upper.gpu:
            self.ahead.add(upper)
        return upper

    def hold_gpu(self, node: Node) -> None:
        """``node`` takes space on the GPU; what hangs below it on the host may now be copied up ahead."""
        self.tree.hold_gpu(node)
        if self.ahead is not None:
            for child in node.children.values():
                self.ahead.add(child)

    def unpin(self, node: Node) -> None:
        """Undo one pin; what is unprotected now may be evicted."""
        for freed in self.tree.unpin(node):
            if not freed.gpu:
                self._host_queue.add(freed)
            elif not freed.num_gpu_children:
                self._gpu_queue.add(freed)

    def end_offload(self, offload: Offload, now_s: float) -> None:
        """An offload's copy has ended: the host copy is valid, and with ``evicts`` the GPU's goes."""
        for node in offload.nodes:
            node.offload = None
        self.tree.unpin(offload.pinned)
        if offload.evicts:
            self.pending_free_blocks -= offload.num_blocks
        for node in deepest_first(offload.nodes):
            if offload.evicts and _is_gpu_candidate(node):
                self._demote(node, offload.event.by, offload.event.reason, now_s)
            else:
                if offload.evicts and self.is_exclusive:
                    self.release_host(node)
                self._gpu_queue.add(node)

    def take_offloads(self) -> list[Offload]:
        """The offloads decided since the last call, in order: the engine's to carry out."""
        taken, self.offloads = self.offloads, []
        return taken

    # ------------------------------------------------------------------ room on the GPU

    def make_room(self, num_blocks: int, by: str, reason: Reason, now_s: float) -> bool:
        """Evict until ``num_blocks`` are free or will be when copies end; whether they are now."""
        if self.free_blocks + self.pending_free_blocks < num_blocks:
            self.evict_until(num_blocks, _anything, by, reason, now_s)
        return self.free_blocks >= num_blocks

    def make_room_ahead(self, num_blocks: int, may_go: Callable[[Node], bool], by: str, now_s: float) -> int:
        """Evict for a prefetch, as long as the next victim ``may_go``; the blocks it may fill now."""
        reserve = self.config.prefetch_reserve_blocks
        self.evict_until(num_blocks + reserve, may_go, by, "prefetch", now_s)
        return min(num_blocks, self.free_blocks - reserve)

    def next_due_s(self) -> float:
        """When the policy may next see things otherwise by time alone."""
        return min((follower.next_due_s() for follower in self._timed), default=float("inf"))

    def note_time(self, now_s: float) -> None:
        """Tell the policy what time it is, before it is asked to choose."""
        for follower in self._timed:
            self.rescored(follower.passed(now_s))

    def next_victims(self) -> Iterator[Node]:
        """Who would leave the GPU next, in order; to be looked at and closed before anything changes."""
        return self._gpu_queue.walk()

    def evict_until(
        self, num_blocks: int, may_go: Callable[[Node], bool], by: str, reason: Reason, now_s: float
    ) -> None:
        self.note_time(now_s)
        while self.free_blocks + self.pending_free_blocks < num_blocks:
            victim = self._gpu_queue.peek()
            if victim is None or not may_go(victim):
                break
            self._gpu_queue.take(victim)
            if not self.config.whole_nodes:
                missing = num_blocks - self.free_blocks - self.pending_free_blocks
                self._cut_off(victim, missing)
            self._evict(victim, by, reason, now_s)

    def _cut_off(self, victim: Node, num_blocks: int) -> None:
        """Leave ``victim`` its last ``num_blocks``, or as many of them as its order lets go together."""
        if self._tail_blocks is not None:
            num_blocks = min(num_blocks, self._tail_blocks(victim))
        if num_blocks < victim.num_blocks:
            self.split(victim, victim.end - num_blocks)

    def _evict(self, node: Node, by: str, reason: Reason, now_s: float) -> None:
        if node.host:
            self._demote(node, by, reason, now_s)
        elif self._writes_at_eviction and self._make_host_room(node.num_blocks, by, now_s):
            self._start_offload(node, event_of("offload", node, node.num_blocks, by, reason, now_s), True)
        else:
            self._delete(node, by, reason, now_s)

    def _demote(self, node: Node, by: str, reason: Reason, now_s: float) -> None:
        self.leave_to_host(node)
        self._log("demote", node, by, reason, now_s)

    def leave_to_host(self, node: Node) -> None:
        """``node``, which has a host copy, gives its space on the GPU back."""
        self._leave_gpu(node)
        if not node.children:
            self._host_queue.add(node)
        if self.ahead is not None:
            self.ahead.add(node)

    def _delete(self, node: Node, by: str, reason: Reason, now_s: float) -> None:
        """No copy is left: the node goes, and with it whatever hangs below it on the host."""
        for child in list(node.children.values()):
            self._delete_host_subtree(child, by, now_s)
        self._leave_gpu(node)
        self._forget(node, by, now_s)
        self._log("evict", node, by, reason, now_s)

    def _leave_gpu(self, node: Node) -> None:
        self.tree.release_gpu(node)
        self.pages.gave_gpu(node)
        node.prefetched = False
        self.free_blocks += node.end - node.start
        parent = parent_of(node)
        if not (parent.num_gpu_children or parent.refs):
            self._gpu_queue.add(parent)

    def _forget(self, node: Node, by: str, now_s: float) -> None:
        self.tree.remove(node)
        for removed in self._removed:
            removed(node)
        gone = (now_s, by)
        for key in node.keys:
            self.evicted[key] = gone
        self._host_queue.add(parent_of(node))

    @property
    def copies_early(self) -> bool:
        """Whether an idle link copies down what will be evicted next, so that eviction need not wait."""
        return self._writes_at_eviction and self.config.early_blocks > 0

    def offload_early(self, now_s: float) -> None:
        """Begin to copy down those of the next victims that have no host copy yet."""
        self.note_time(now_s)
        for node in self._gpu_queue.leading(self.config.early_blocks):
            if not node.host and self._make_host_room(node.num_blocks, node.owner, now_s):
                event = event_of("offload", node, node.num_blocks, node.owner, "early", now_s)
                self._start_offload(node, event, False)

    # ------------------------------------------------------------------ room on the host

    def _write(self, node: Node, now_s: float) -> None:
        """Begin to copy ``node`` to the host, if it has been used often enough and there is room.

        Its parent must have gone before: a host copy without its prefix could not be reached.
        """
        due = self._write_at is not None and node.num_hits >= self._write_at
        if due and parent_of(node).host and self._make_host_room(node.num_blocks, node.owner, now_s):
            event = event_of("offload", node, node.num_blocks, node.owner, "write", now_s)
            self._start_offload(node, event, False)

    def _start_offload(self, node: Node, event: CacheEvent, evicts: bool) -> None:
        offload = Offload([node], event, node, evicts)
        self.pages.took_host(node)
        node.host = True
        node.offload = offload
        self.free_host_blocks -= node.num_blocks
        self.pending_free_blocks += node.num_blocks if evicts else 0
        self.tree.pin(node)
        self.offloads.append(offload)

    def _make_host_room(self, num_blocks: int, by: str, now_s: float) -> bool:
        if num_blocks > self.config.host_blocks:
            return False
        while self.free_host_blocks < num_blocks:
            victim = self._host_queue.pop()
            if victim is None:
                return False
            self._drop(victim, by, now_s)
        return True

    def _drop(self, node: Node, by: str, now_s: float) -> None:
        self.release_host(node)
        self._forget(node, by, now_s)
        self._log("drop", node, by, "host_room", now_s)

    def _delete_host_subtree(self, node: Node, by: str, now_s: float) -> None:
        for child in list(node.children.values()):
            self._delete_host_subtree(child, by, now_s)
        self._drop(node, by, now_s)

    def _use_prefetched(self, node: Node) -> None:
        node.prefetched = False
        if node.load is None:
            self.prefetched.useful += node.num_blocks
        else:
            self.prefetched.late += node.num_blocks

    def release_host(self, node: Node) -> None:
        """``node`` gives its space on the host back."""
        node.host = False
        self.pages.gave_host(node)
        self.free_host_blocks += node.end - node.start

    # ------------------------------------------------------------------ log and checks

    def _log(self, kind: EventKind, node: Node, by: str, reason: Reason, now_s: float) -> None:
        """Log an eviction; what goes with it for the same need, of one owner and last use, is one entry."""
        event = event_of(kind, node, node.end - node.start, by, reason, now_s)
        if self.events:
            at_s, last_kind, num_blocks, _, owner, last_by, _, age_s, lifetime_s, *_ = self.events[-1]
            same_need = at_s == now_s and last_kind == kind and last_by == by
            if same_need and age_s == event.age_s and owner == node.owner:
                num_blocks, lifetime_s = num_blocks + event.num_blocks, max(lifetime_s, event.lifetime_s)
                self.events[-1] = event._replace(num_blocks=num_blocks, lifetime_s=lifetime_s)
                return
        self.events.append(event)

    def check_invariants(self) -> None:
        """The tree's own, and conservation on the host. Raises InvariantError."""
        self.tree.check_invariants()
        on_host = sum(node.num_blocks for node in self.tree.nodes() if node.host)
        if on_host + self.free_host_blocks != self.config.host_blocks or self.free_host_blocks < 0:
            raise InvariantError(
                f"host: {self.free_host_blocks} free + {on_host} held, capacity {self.config.host_blocks}"
            )


def event_of(
    kind: EventKind, node: Node, num_blocks: int, by: str, reason: Reason, now_s: float
) -> CacheEvent:
    age_s, lifetime_s = now_s - node.last_access_s, now_s - node.made_at_s
    return CacheEvent(now_s, kind, num_blocks, None, node.owner, by, reason, age_s, lifetime_s)


def _is_gpu_candidate(node: Node) -> bool:
    return node.gpu and not node.num_gpu_children and not node.refs and node.parent is not None


def _is_host_candidate(node: Node) -> bool:
    return node.host and not node.gpu and not node.children and not node.refs


def _is_ahead_candidate(node: Node) -> bool:
    return node.host and not node.gpu and node.parent is not None and node.parent.gpu


def _anything(victim: Node) -> bool:
    return True
