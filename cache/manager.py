"""The cache manager: who may have space on which tier, decided without a clock and without a GPU.

An engine owns one manager and calls it in this order for each request:

    admit   look the prompt up, protect what was found, reserve blocks for the rest
    commit  the prefill is done: the prompt's full blocks enter the tree
    grow    decoding needs another block
    finish  the answer's full blocks enter the tree, the protection ends
    preempt give everything back instead

and for each copy that it carries out: `end_load`, `end_offload`. Decisions that take time come back
as data (`Load` in the `Admission`, `Offload` in `take_offloads`); evictions take effect at once and
are logged in `events`, where the engine adds the copies. Time is an argument.

Rules, with their source (SGLang's HiRadixCache unless said otherwise, see docs/concepts.md): only
leaves go, whole nodes by default; a node with a host copy is demoted, one without is deleted; a host
leaf (not on the GPU, no children) makes room on the host; a copy is loaded back when its request is
admitted, all of the path or nothing; the last prompt token is always computed; generated tokens are
kept if the trace names them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pbkv.cache.blocks import BlockPath, Key, PathTable
from pbkv.cache.decisions import Admission, CacheEvent, EventKind, Lease, Load, Offload, Reason
from pbkv.cache.eviction import EvictionOrder, EvictionQueue
from pbkv.cache.tree import Node, PrefixTree, follow, parent_of
from pbkv.traces.errors import ConfigError, InvariantError


class WriteMode(StrEnum):
    """When the host tier gets its copy (HiCache's three modes, and one that never holds a block twice)."""

    WRITE_THROUGH = "write-through"  # at the first use
    SELECTIVE = "write-through-selective"  # at the second use
    WRITE_BACK = "write-back"  # at eviction, which waits for the copy
    EXCLUSIVE = "exclusive"  # at eviction; given up again when loaded

    @classmethod
    def named(cls, name: str) -> WriteMode:
        """The mode called ``name``. Raises ConfigError."""
        if name not in list(cls):
            raise ConfigError("write_mode", name, "one of " + ", ".join(cls))
        return cls(name)


_HITS_BEFORE_WRITE = {WriteMode.WRITE_THROUGH: 1, WriteMode.SELECTIVE: 2}


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Sizes in blocks and the rules that hold whatever the eviction order is."""

    gpu_blocks: int
    host_blocks: int
    block_size: int
    write_mode: WriteMode = WriteMode.WRITE_THROUGH
    whole_nodes: bool = True  # False: of the last victim only as many tail blocks as are needed
    min_load_tokens: int = 10  # fewer than this on the host are computed again (HiCache)
    watermark_blocks: int = 0  # kept free or evictable at each admission but the only one

    def __post_init__(self) -> None:
        for name, minimum in (
            ("gpu_blocks", 1),
            ("host_blocks", 0),
            ("block_size", 1),
            ("watermark_blocks", 0),
        ):
            if getattr(self, name) < minimum:
                raise ConfigError(name, getattr(self, name), f"a number ≥ {minimum}")


class CacheManager:
    """Owns the tree, both tiers' space and the two eviction queues.

    At any time ``free_blocks + private_blocks + tree.gpu_blocks == config.gpu_blocks``.
    """

    def __init__(
        self, config: CacheConfig, table: PathTable, gpu_order: EvictionOrder, host_order: EvictionOrder
    ) -> None:
        self.config = config
        self.table = table
        self.tree = PrefixTree()
        self.free_blocks = config.gpu_blocks
        self.private_blocks = 0
        self.free_host_blocks = config.host_blocks
        self.events: list[CacheEvent] = []
        self.offloads: list[Offload] = []
        self._gpu_queue = EvictionQueue(gpu_order, _is_gpu_candidate)
        self._host_queue = EvictionQueue(host_order, _is_host_candidate)
        self._num_leases = 0
        self._pending_free = 0  # blocks that come free when write-back copies end
        self._evicted: dict[Key, tuple[float, str]] = {}
        self._write_at = _HITS_BEFORE_WRITE.get(config.write_mode) if config.host_blocks else None
        self._writes_at_eviction = self._write_at is None and config.host_blocks > 0
        self._exclusive = config.write_mode is WriteMode.EXCLUSIVE

    @property
    def evictable_blocks(self) -> int:
        return self.tree.gpu_blocks - self.tree.protected_blocks

    @property
    def is_making_room(self) -> bool:
        """Whether copies in flight will free GPU blocks when they end (write-back, exclusive)."""
        return self._pending_free > 0

    # ------------------------------------------------------------------ a request's life

    def cached_blocks(self, path: BlockPath) -> int:
        """Leading full blocks of ``path`` on any tier; the last token's block never counts. Pure."""
        return self.tree.match(path, _limit(path)).num_blocks

    def admit(
        self, path: BlockPath, owner: str, now_s: float, num_tokens: int | None = None
    ) -> Admission | None:
        """Start a request of ``owner`` (a workflow id), or None while its blocks cannot be had.

        Reserves space for ``num_tokens`` (default: the prompt; more when a preempted request comes
        back). On None nothing has changed but that, in the modes that copy at eviction, room may
        have begun to be made.
        """
        held = self._num_blocks(path.num_tokens if num_tokens is None else num_tokens)
        if not self._can_have(held, path):
            return None
        nodes = self._matched_nodes(path)
        num_gpu = sum(node.gpu for node in nodes)
        gpu_end = nodes[num_gpu - 1].end if num_gpu else 0
        deepest = nodes[-1] if nodes else self.tree.root
        self.tree.pin(deepest)
        if not self._make_room(held - gpu_end, owner, "admit", now_s):
            self._unpin(deepest)
            return None
        lease = Lease(path, owner, deepest)
        self._num_leases += 1
        ready = _in_flight_from(nodes[:num_gpu])
        last_gpu = nodes[num_gpu - 1] if num_gpu else self.tree.root
        load = self._start_load(lease, nodes[num_gpu:], last_gpu, now_s)
        self._take(held - lease.node.end)
        self._touch(nodes, now_s)
        return self._admission(lease, nodes[:num_gpu], ready, load, now_s)

    def commit(self, lease: Lease, now_s: float, num_tokens: int | None = None) -> None:
        """The prompt is computed: its full blocks enter the tree, where others find them.

        Raises InvariantError if a copy that the lease stands on has not ended.
        """
        if lease.node.load is not None:
            raise InvariantError(f"{lease.node} of {lease.owner} is used before its copy has ended")
        held = self._num_blocks(lease.path.num_tokens if num_tokens is None else num_tokens)
        self._insert(lease, lease.path, held - lease.node.end, now_s)

    def grow(self, num_blocks: int, owner: str, now_s: float) -> bool:
        """Take ``num_blocks`` more private blocks for decoding, evicting if need be. False: no room."""
        if not self._make_room(num_blocks, owner, "grow", now_s):
            return False
        self._take(num_blocks)
        return True

    def finish(self, lease: Lease, answer: BlockPath | None, held_tokens: int, now_s: float) -> None:
        """End a request that holds ``held_tokens``; ``answer`` is its path with the generated tokens."""
        private = self._num_blocks(held_tokens) - lease.node.end
        if answer is not None:
            private = self._insert(lease, answer, private, now_s)
        self._end(lease, private)

    def preempt(self, lease: Lease, held_tokens: int) -> None:
        """Stop a request for lack of room: its private blocks go, what the tree has may be evicted."""
        self._end(lease, self._num_blocks(held_tokens) - lease.node.end)

    # ------------------------------------------------------------------ copies

    def end_load(self, load: Load) -> None:
        """A load's copy has ended: its nodes may be used."""
        for node in load.nodes:
            node.load = None
            if self._exclusive:
                self._release_host(node)

    def end_offload(self, offload: Offload, now_s: float) -> None:
        """An offload's copy has ended: the host copy is valid, and with ``evicts`` the GPU's goes."""
        for node in offload.nodes:
            node.offload = None
        self.tree.unpin(offload.pinned)
        if offload.evicts:
            self._pending_free -= offload.num_blocks
        for node in sorted(offload.nodes, key=_start, reverse=True):
            if offload.evicts and _is_gpu_candidate(node):
                self._demote(node, offload.event.by, offload.event.reason, now_s)
            else:
                if offload.evicts and self._exclusive:
                    self._release_host(node)
                self._gpu_queue.add(node)

    def take_offloads(self) -> list[Offload]:
        """The offloads decided since the last call, in order: the engine's to carry out."""
        taken, self.offloads = self.offloads, []
        return taken

    # ------------------------------------------------------------------ matching and admission

    def _matched_nodes(self, path: BlockPath) -> list[Node]:
        """The nodes that hold the leading blocks of ``path``, the last one cut to fit."""
        match = self.tree.match(path, _limit(path))
        if match.partial is not None and match.num_blocks > match.partial.start:
            match.nodes.append(self.tree.split(match.partial, match.num_blocks))
        return match.nodes

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.config.block_size)

    def _can_have(self, held: int, path: BlockPath) -> bool:
        """Whether ``held`` blocks can be had for ``path``, those on the GPU already counted in.

        What is found unprotected is one block less to take and one less to evict: it cancels out.
        """
        spare = self.config.watermark_blocks if self._num_leases else 0
        available = self.free_blocks + self._pending_free + self.evictable_blocks - spare
        return held <= available or held <= available + self.tree.protected(path, _limit(path))

    def _start_load(self, lease: Lease, host_nodes: list[Node], last_gpu: Node, now_s: float) -> Load | None:
        """Begin to load ``host_nodes``, or end the lease at ``last_gpu`` if they are too short."""
        num_blocks = lease.node.end - last_gpu.end
        if not host_nodes or num_blocks * self.config.block_size < self.config.min_load_tokens:
            if lease.node is not last_gpu:
                self.tree.pin(last_gpu)
                self._unpin(lease.node)
                lease.node = last_gpu
            return None
        event = _event("load", host_nodes[0], num_blocks, lease.owner, "admit", now_s)
        load = Load(host_nodes, event)
        for node in host_nodes:
            self.tree.hold_gpu(node)
            node.load = load
        self.free_blocks -= num_blocks
        return load

    def _admission(
        self, lease: Lease, gpu_nodes: list[Node], ready: int, load: Load | None, now_s: float
    ) -> Admission:
        """Sort the prompt's tokens into the six classes of `Admission`."""
        size, path = self.config.block_size, lease.path
        found = lease.node.end
        on_host = load.num_blocks if load else 0
        ever = min(self.table.ever_cached_tokens(path, found * size), path.num_tokens)
        evicted = max(min(ever // size, _limit(path)) - found, 0)
        by, ago = self._eviction_of(path, found, now_s) if evicted else (None, None)
        return Admission(
            lease=lease,
            gpu_hit_tokens=ready * size,
            host_hit_tokens=on_host * size,
            loading_tokens=(found - on_host - ready) * size,
            evicted_tokens=evicted * size,
            partial_tokens=ever - (found + evicted) * size,
            cold_tokens=path.num_tokens - ever,
            evicted_by=by,
            evicted_ago_s=ago,
            load=load,
            waits_for=_loads_of(gpu_nodes) if ready + on_host < found else [],
        )

    def _eviction_of(self, path: BlockPath, block: int, now_s: float) -> tuple[str | None, float | None]:
        gone = self._evicted.get(path.keys[bisect_right(path.ends, block)])
        return (None, None) if gone is None else (gone[1], now_s - gone[0])

    def _touch(self, nodes: Sequence[Node], now_s: float) -> None:
        writes = self._write_at is not None
        for node in nodes:
            node.last_access_s = now_s
            node.num_hits += 1
            if writes and not node.host:
                self._write(node, now_s)

    # ------------------------------------------------------------------ insertion

    def _insert(self, lease: Lease, path: BlockPath, private: int, now_s: float) -> int:
        """Move private blocks into the tree as far as ``path`` has full ones; what stays private.

        Where another request was faster, ours are duplicates and go. Behind a node that is still
        loading nothing is shared: the request keeps its own blocks.
        """
        self.table.remember(path, lease.node.end * self.config.block_size)
        node = lease.node
        while node.end < path.num_blocks:
            child = self._child(node, path)
            if child is not None and child.load is not None:
                break
            if child is None:
                child = self.tree.add(node, path, lease.owner, now_s)
            if child.gpu:
                self.free_blocks += child.end - child.start
            else:
                self.tree.hold_gpu(child)
                if child.host and self._exclusive:
                    self._release_host(child)
            private -= child.end - child.start
            self.private_blocks -= child.end - child.start
            node = child
            self._touch((node,), now_s)
        if node is not lease.node:
            self.tree.pin(node)
            self.tree.unpin(lease.node)
            lease.node = node
        return private

    def _child(self, node: Node, path: BlockPath) -> Node | None:
        """The child that ``path`` goes on in, cut to where they part; None if there is none."""
        index = bisect_right(path.ends, node.end)
        child = node.children.get(path.keys[index])
        if child is None:
            return None
        _, reached = follow(child, path.keys, path.ends, index)
        return child if reached == child.end else self.tree.split(child, reached)

    def _end(self, lease: Lease, private: int) -> None:
        self.free_blocks += private
        self.private_blocks -= private
        self._num_leases -= 1
        self._unpin(lease.node)

    def _take(self, num_blocks: int) -> None:
        self.free_blocks -= num_blocks
        self.private_blocks += num_blocks

    def _unpin(self, node: Node) -> None:
        for freed in self.tree.unpin(node):
            if not freed.gpu:
                self._host_queue.add(freed)
            elif not freed.num_gpu_children:
                self._gpu_queue.add(freed)

    # ------------------------------------------------------------------ room on the GPU

    def _make_room(self, num_blocks: int, by: str, reason: Reason, now_s: float) -> bool:
        """Evict until ``num_blocks`` are free or will be when copies end; whether they are now."""
        while self.free_blocks + self._pending_free < num_blocks:
            victim = self._gpu_queue.pop()
            if victim is None:
                break
            missing = num_blocks - self.free_blocks - self._pending_free
            if not self.config.whole_nodes and victim.num_blocks > missing:
                self.tree.split(victim, victim.end - missing)
            self._evict(victim, by, reason, now_s)
        return self.free_blocks >= num_blocks

    def _evict(self, node: Node, by: str, reason: Reason, now_s: float) -> None:
        if node.host:
            self._demote(node, by, reason, now_s)
        elif self._writes_at_eviction and self._make_host_room(node.num_blocks, by, now_s):
            self._start_offload(node, _event("offload", node, node.num_blocks, by, reason, now_s), True)
        else:
            self._delete(node, by, reason, now_s)

    def _demote(self, node: Node, by: str, reason: Reason, now_s: float) -> None:
        self._leave_gpu(node, now_s)
        if not node.children:
            self._host_queue.add(node)
        self._log("demote", node, by, reason, now_s)

    def _delete(self, node: Node, by: str, reason: Reason, now_s: float) -> None:
        """No copy is left: the node goes, and with it whatever hangs below it on the host."""
        for child in list(node.children.values()):
            self._delete_host_subtree(child, by, now_s)
        self._leave_gpu(node, now_s)
        self._forget(node, by, now_s)
        self._log("evict", node, by, reason, now_s)

    def _leave_gpu(self, node: Node, now_s: float) -> None:
        self.tree.release_gpu(node)
        self.free_blocks += node.end - node.start
        node.gone_at_s = now_s
        parent = parent_of(node)
        if not (parent.num_gpu_children or parent.refs):
            self._gpu_queue.add(parent)

    def _forget(self, node: Node, by: str, now_s: float) -> None:
        self.tree.remove(node)
        gone = (now_s, by)
        for key in node.keys:
            self._evicted[key] = gone
        self._host_queue.add(parent_of(node))

    # ------------------------------------------------------------------ room on the host

    def _write(self, node: Node, now_s: float) -> None:
        """Begin to copy ``node`` to the host, if it has been used often enough and there is room.

        Its parent must have gone before: a host copy without its prefix could not be reached.
        """
        due = self._write_at is not None and node.num_hits >= self._write_at
        if due and parent_of(node).host and self._make_host_room(node.num_blocks, node.owner, now_s):
            event = _event("offload", node, node.num_blocks, node.owner, "write", now_s)
            self._start_offload(node, event, False)

    def _start_offload(self, node: Node, event: CacheEvent, evicts: bool) -> None:
        offload = Offload([node], event, node, evicts)
        node.host = True
        node.offload = offload
        self.free_host_blocks -= node.num_blocks
        self._pending_free += node.num_blocks if evicts else 0
        self.tree.pin(node)
        self.offloads.append(offload)

    def _make_host_room(self, num_blocks: int, by: str, now_s: float) -> bool:
        while self.free_host_blocks < num_blocks:
            victim = self._host_queue.pop()
            if victim is None:
                return False
            self._drop(victim, by, now_s)
        return True

    def _drop(self, node: Node, by: str, now_s: float) -> None:
        self._release_host(node)
        self._forget(node, by, now_s)
        self._log("drop", node, by, "host_room", now_s)

    def _delete_host_subtree(self, node: Node, by: str, now_s: float) -> None:
        for child in list(node.children.values()):
            self._delete_host_subtree(child, by, now_s)
        self._drop(node, by, now_s)

    def _release_host(self, node: Node) -> None:
        node.host = False
        self.free_host_blocks += node.end - node.start

    # ------------------------------------------------------------------ log and checks

    def _log(self, kind: EventKind, node: Node, by: str, reason: Reason, now_s: float) -> None:
        """Log an eviction; what goes with it for the same need, of one owner and last use, is one entry."""
        event = _event(kind, node, node.end - node.start, by, reason, now_s)
        last = self.events[-1] if self.events else event
        if last is event or last.at_s != now_s or last.kind != kind or last[3:7] != event[3:7]:
            self.events.append(event)
        else:
            num_blocks, lifetime_s = (
                last.num_blocks + event.num_blocks,
                max(last.lifetime_s, event.lifetime_s),
            )
            self.events[-1] = CacheEvent(now_s, kind, num_blocks, *event[3:7], lifetime_s)

    def check_invariants(self) -> None:
        """Conservation on both tiers, and the tree's own invariants. Raises InvariantError."""
        self.tree.check_invariants()
        held = self.free_blocks + self.private_blocks + self.tree.gpu_blocks
        if held != self.config.gpu_blocks or min(self.free_blocks, self.private_blocks) < 0:
            raise InvariantError(
                f"GPU: {self.free_blocks} free + {self.private_blocks} private + {self.tree.gpu_blocks} "
                f"in the tree, capacity {self.config.gpu_blocks}"
            )
        on_host = sum(node.num_blocks for node in self.tree.nodes() if node.host)
        if on_host + self.free_host_blocks != self.config.host_blocks or self.free_host_blocks < 0:
            raise InvariantError(
                f"host: {self.free_host_blocks} free + {on_host} held, capacity {self.config.host_blocks}"
            )


def _event(kind: EventKind, node: Node, num_blocks: int, by: str, reason: Reason, now_s: float) -> CacheEvent:
    age_s, lifetime_s = now_s - node.last_access_s, now_s - node.made_at_s
    return CacheEvent(now_s, kind, num_blocks, node.owner, by, reason, age_s, lifetime_s)


def _limit(path: BlockPath) -> int:
    """The last prompt token is always computed, so its block is never a hit."""
    return (path.num_tokens - 1) // path.block_size


def _is_gpu_candidate(node: Node) -> bool:
    return node.gpu and not node.num_gpu_children and not node.refs and node.parent is not None


def _is_host_candidate(node: Node) -> bool:
    return node.host and not node.gpu and not node.children and not node.refs


def _start(node: Node) -> int:
    return node.start


def _in_flight_from(gpu_nodes: list[Node]) -> int:
    """Leading blocks that are ready: those before the first node whose load is in flight."""
    for node in gpu_nodes:
        if node.load is not None:
            return node.start
    return gpu_nodes[-1].end if gpu_nodes else 0


def _loads_of(gpu_nodes: list[Node]) -> list[Load]:
    return list(dict.fromkeys(node.load for node in gpu_nodes if node.load is not None))
