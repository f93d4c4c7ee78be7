"""The cache manager: who may have space on which tier, decided without a clock and without a GPU.

An engine owns one manager and calls it in this order for each request:

    admit   look the prompt up, protect what was found, reserve blocks for the rest
    commit  the prefill is done: the prompt's full blocks enter the tree
    grow    decoding needs another block
    finish  the answer's full blocks enter the tree, the protection ends
    preempt give everything back instead

and for each copy that it carries out: `end_load`, `Tiers.end_offload`. Decisions that take time come
back as data (`Load` in the `Admission`, `Offload` in `Tiers.take_offloads`); evictions take effect at
once and are logged in `Tiers.events`, where the engine adds the copies. Time is an argument.

Rules, with their source (SGLang's HiRadixCache unless said otherwise, see docs/concepts.md): only
leaves go, whole nodes by default; a node with a host copy is demoted, one without is deleted; a host
leaf (not on the GPU, no children) makes room on the host; a copy is loaded back when its request is
admitted, all of the path or nothing; the last prompt token is always computed; generated tokens are
kept if the trace names them.
"""

from __future__ import annotations

from bisect import bisect_right

from pbkv.cache.blocks import BlockPath, PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.decisions import Admission, Lease, Load, Misses
from pbkv.cache.follower import Follower, overriding
from pbkv.cache.pages import Pages
from pbkv.cache.policy import Policy
from pbkv.cache.prefetch import Situation
from pbkv.cache.tiers import Tiers, event_of
from pbkv.cache.tree import Node, deepest_first, follow
from pbkv.traces.errors import InvariantError
from pbkv.traces.schema import Workflow


class CacheManager:
    """Owns the tiers, and the blocks that are private to running requests.

    At any time ``tiers.free_blocks + private_blocks + tree.gpu_blocks == config.gpu_blocks``.
    """

    def __init__(
        self, config: CacheConfig, table: PathTable, policy: Policy, pages: Pages | None = None
    ) -> None:
        self.config = config
        self.table = table
        self.pages = Pages() if pages is None else pages
        self.tiers = Tiers(config, policy, self.pages)
        self.policy = policy
        self.tree = self.tiers.tree
        self.private_blocks = 0
        self.is_clearing_ahead = False  # the last prefetch made room, but not enough: the next makes more
        self._num_leases = 0
        following = policy.followers
        for follower in following:
            follower.begun(config)
        self._submitted = overriding(following, Follower.submitted)
        self._computed = overriding(following, Follower.computed)
        self._foreseen = overriding(following, Follower.foreseen)
        self._call_ended = overriding(following, Follower.call_ended)
        self._ended = overriding(following, Follower.ended)

    # ------------------------------------------------------------------ a request's life

    def cached_blocks(self, path: BlockPath) -> int:
        """Leading full blocks of ``path`` on any tier; the last token's block never counts. Pure."""
        return self.tree.match(path, path.hit_limit).num_blocks

    def admit(
        self, path: BlockPath, owner: str, now_s: float, num_tokens: int | None = None, agent: str = ""
    ) -> Admission | None:
        """Start a request of ``owner`` (a workflow id) by ``agent``, or None while its blocks cannot be had.

        Reserves space for ``num_tokens`` (default: the prompt; more when a preempted request comes
        back). None changes nothing in the write-through modes. In those that copy at eviction, room
        may have begun to be made: blocks that come free when their copies end
        (`Tiers.pending_free_blocks`), and the request is to be tried again until then.
        """
        held = self._num_blocks(path.num_tokens if num_tokens is None else num_tokens)
        if not self._can_have(held, path):
            return None
        nodes = self._matched_nodes(path)
        num_gpu = sum(node.gpu for node in nodes)
        gpu_end = nodes[num_gpu - 1].end if num_gpu else 0
        deepest = nodes[-1] if nodes else self.tree.root
        self.tree.pin(deepest)
        if not self.tiers.make_room(held - gpu_end, owner, "admit", now_s):
            self.tiers.unpin(deepest)
            return None
        lease = Lease(path, owner, agent, deepest)
        self._num_leases += 1
        ready = _in_flight_from(nodes[:num_gpu])
        last_gpu = nodes[num_gpu - 1] if num_gpu else self.tree.root
        load = self._start_load(lease, nodes[num_gpu:], last_gpu, now_s)
        self.pages.begun(lease)
        self._take(held - lease.node.end)
        self.tiers.touch(nodes, lease, now_s)
        size, on_host = self.config.block_size, load.num_blocks if load else 0
        loading = lease.node.end - on_host - ready
        waits_for = _loads_of(nodes[:num_gpu]) if loading else []
        return Admission(lease, ready * size, on_host * size, loading * size, load, waits_for)

    def misses(self, lease: Lease, now_s: float) -> Misses:
        """Why the rest of the prompt was not found; to be asked right after its admission."""
        size, path, found = self.config.block_size, lease.path, lease.node.end
        ever = min(self.table.ever_cached_tokens(path, found * size), path.num_tokens)
        evicted = max(min(ever // size, path.hit_limit) - found, 0)
        by, ago_s = self._eviction_of(path, found, now_s) if evicted else (None, None)
        partial = ever - (found + evicted) * size
        return Misses(evicted * size, partial, path.num_tokens - ever, by, ago_s)

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
        if not self.tiers.make_room(num_blocks, owner, "grow", now_s):
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

    # ------------------------------------------------------------------ a workflow's life

    def call_submitted(self, workflow: Workflow, position: int, now_s: float) -> None:
        """Call ``position`` of ``workflow`` has come in."""
        for submitted in self._submitted:
            self.tiers.rescored(submitted(workflow, position, now_s))

    def call_computed(self, workflow: Workflow, position: int, now_s: float) -> None:
        """The prompt of call ``position`` is computed: a policy that predicts looks ahead again."""
        for computed in self._computed:
            self.tiers.rescored(computed(workflow, position, now_s))

    def call_foreseen(self, workflow: Workflow, position: int, now_s: float) -> None:
        """The forecast of call ``position`` has come, some time after its prompt was computed."""
        for foreseen in self._foreseen:
            self.tiers.rescored(foreseen(workflow, position, now_s))

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> None:
        """The answer of call ``position`` is out."""
        for call_ended in self._call_ended:
            self.tiers.rescored(call_ended(workflow, position, now_s))

    def workflow_ended(self, workflow: Workflow, now_s: float) -> None:
        """The client says that ``workflow`` sends no more calls."""
        for ended in self._ended:
            self.tiers.rescored(ended(workflow, now_s))

    # ------------------------------------------------------------------ copies

    def end_load(self, load: Load) -> None:
        """A load's copy has ended: its nodes may be used."""
        for node in load.nodes:
            node.load = None
            if self.tiers.is_exclusive:
                self.tiers.release_host(node)
        if load.pinned is not None:
            self.tiers.unpin(load.pinned)

    def prefetch(self, situation: Situation, now_s: float) -> list[Load]:
        """The copies to start ahead of demand, if the policy has a prefetch; one a node, in order."""
        tiers, prefetch = self.tiers, self.policy.prefetch
        self.is_clearing_ahead = False
        if prefetch is None or tiers.ahead is None or tiers.is_making_room:
            return []
        tiers.note_time(now_s)
        left, loads = prefetch.budget(situation), list[Load]()
        free_before = tiers.free_blocks
        if left > 0:
            may_go = prefetch.displaceable(tiers)
            while left > 0 and (node := tiers.ahead.peek()) is not None and prefetch.wants(node):
                self.tree.pin(node)  # it may be a victim itself, or its parent
                num_blocks = tiers.make_room_ahead(min(left, node.num_blocks), may_go, node.owner, now_s)
                if num_blocks > 0:
                    loads.append(self._start_prefetch(node, num_blocks, now_s))
                tiers.unpin(node)
                if num_blocks <= 0:
                    break
                left -= num_blocks
        self.is_clearing_ahead = not loads and tiers.free_blocks > free_before
        return loads

    def cancel(self, load: Load, now_s: float) -> None:
        """Give up a prefetch whose copy has not begun: its space is free again."""
        tiers = self.tiers
        event = load.event._replace(at_s=now_s, kind="cancel")
        tiers.events.append(event)
        tiers.prefetched.cancelled += load.num_blocks
        for node in load.nodes:
            node.load = None
        if load.pinned is not None:
            tiers.unpin(load.pinned)
        for node in deepest_first(load.nodes):
            tiers.leave_to_host(node)

    # ------------------------------------------------------------------ matching and admission

    def _matched_nodes(self, path: BlockPath) -> list[Node]:
        """The nodes that hold the leading blocks of ``path``, the last one cut to fit."""
        match = self.tree.match(path, path.hit_limit)
        if match.partial is not None and match.num_blocks > match.partial.start:
            match.nodes.append(self.tiers.split(match.partial, match.num_blocks))
        return match.nodes

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.config.block_size)

    def _can_have(self, held: int, path: BlockPath) -> bool:
        """Whether ``held`` blocks can be had for ``path``, those on the GPU already counted in.

        What is found protected (10 blocks of a shared prompt, say) need not be taken. What is found
        unprotected need not be taken either, but may not be evicted then: it makes no difference.
        """
        tiers = self.tiers
        spare = self.config.watermark_blocks if self._num_leases else 0
        available = tiers.free_blocks + tiers.pending_free_blocks + tiers.evictable_blocks - spare
        return held <= available or held <= available + self.tree.protected(path, path.hit_limit)

    def _start_load(self, lease: Lease, host_nodes: list[Node], last_gpu: Node, now_s: float) -> Load | None:
        """Begin to load ``host_nodes``, or end the lease at ``last_gpu`` if they are too short."""
        num_blocks = lease.node.end - last_gpu.end
        if not host_nodes or num_blocks * self.config.block_size < self.config.min_load_tokens:
            if lease.node is not last_gpu:
                self.tree.pin(last_gpu)
                self.tiers.unpin(lease.node)
                lease.node = last_gpu
            return None
        event = event_of("load", host_nodes[0], num_blocks, lease.owner, "admit", now_s)
        load = Load(host_nodes, event)
        for node in host_nodes:
            self.tiers.hold_gpu(node)
            self.pages.took_gpu(node)
            node.load = load
        self.tiers.free_blocks -= num_blocks
        return load

    def _start_prefetch(self, node: Node, num_blocks: int, now_s: float) -> Load:
        """Begin to copy the first ``num_blocks`` of ``node`` up."""
        if num_blocks < node.num_blocks:
            node = self.tiers.split(node, node.start + num_blocks)
        event = event_of("prefetch", node, num_blocks, node.owner, "prefetch", now_s)
        load = Load([node], event, node)
        node.load, node.prefetched = load, True
        self.tree.pin(node)
        self.tiers.hold_gpu(node)
        self.pages.took_gpu(node)
        self.tiers.free_blocks -= num_blocks
        self.tiers.prefetched.started += num_blocks
        return load

    def _eviction_of(self, path: BlockPath, block: int, now_s: float) -> tuple[str | None, float | None]:
        gone = self.tiers.evicted.get(path.keys[bisect_right(path.ends, block)])
        return (None, None) if gone is None else (gone[1], now_s - gone[0])

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
                self.tiers.free_blocks += child.end - child.start
                self.pages.found_computed(lease, child)
            else:
                self.tiers.hold_gpu(child)
                self.pages.handed_over(lease, child)
                if child.host and self.tiers.is_exclusive:
                    self.tiers.release_host(child)
            private -= child.end - child.start
            self.private_blocks -= child.end - child.start
            node = child
            self.tiers.touch((node,), lease, now_s)
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
        return child if reached == child.end else self.tiers.split(child, reached)

    def _end(self, lease: Lease, private: int) -> None:
        self.tiers.free_blocks += private
        self.private_blocks -= private
        self._num_leases -= 1
        self.pages.ended(lease)
        self.tiers.unpin(lease.node)

    def _take(self, num_blocks: int) -> None:
        self.tiers.free_blocks -= num_blocks
        self.private_blocks += num_blocks

    # ------------------------------------------------------------------ checks

    def check_invariants(self) -> None:
        """Conservation on both tiers, and the tree's own invariants. Raises InvariantError."""
        self.tiers.check_invariants()
        free, private, in_tree = self.tiers.free_blocks, self.private_blocks, self.tree.gpu_blocks
        if free + private + in_tree != self.config.gpu_blocks or min(free, private) < 0:
            raise InvariantError(
                f"GPU: {free} free + {private} private + {in_tree} in the tree, "
                f"capacity {self.config.gpu_blocks}"
            )


def _in_flight_from(gpu_nodes: list[Node]) -> int:
    """Leading blocks that are ready: those before the first node whose load is in flight."""
    for node in gpu_nodes:
        if node.load is not None:
            return node.start
    return gpu_nodes[-1].end if gpu_nodes else 0


def _loads_of(gpu_nodes: list[Node]) -> list[Load]:
    return list(dict.fromkeys(node.load for node in gpu_nodes if node.load is not None))
