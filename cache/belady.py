"""Bélády's rule on the prefix tree: what is used again latest goes first. Bounds, not policies: they read
the trace's future (`pbkv.cache.future`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbkv.cache.future import NEVER

if TYPE_CHECKING:
    from pbkv.cache.future import Future
    from pbkv.cache.known import Known
    from pbkv.cache.tree import Node


class Belady:
    """The leaf whose next use is farthest goes first; of those never used again the least recently used.

    A node that goes as a whole is used when its first block is, a node that goes block by block
    (``by_block``) when its last one is. A prefix is used whenever what hangs below it is, so the farthest
    entry is always among the leaves (the deeper of two equals goes first).
    """

    def __init__(self, future: Future, by_block: bool) -> None:
        self._future = future
        self._by_block = by_block

    def key(self, node: Node) -> tuple[float, ...]:
        return -self._next_use_s(node), node.last_access_s

    def queued(self, node: Node) -> None:
        """Keys can fall: a node that was used since is queued again."""

    def tail_blocks(self, node: Node) -> int:
        """Of the last blocks of ``node``, how many are used again together."""
        future, at_s, starts = self._future, self._next_use_s(node), [node.start, *node.ends[:-1]]
        for run, start, end in zip(reversed(node.keys), reversed(starts), reversed(node.ends), strict=True):
            block = end
            while block > start:
                if future.next_use_s(run, block, node) != at_s:
                    return node.end - block
                block = max(start, future.step_below(run, block))
        return node.num_blocks

    def _next_use_s(self, node: Node) -> float:
        if self._by_block:
            return self._future.next_use_s(node.keys[-1], node.end, node)
        return self._future.next_use_s(node.keys[0], node.start + 1, node)


class CostAwareBelady(Belady):
    """The largest distance to the next use × size / cost of the miss goes first.

    A victim on the GPU costs a load if it has a host copy or gets one as it goes, any other a prefill at
    its depth; whether the host copy lasts until then is not asked.
    """

    def __init__(self, future: Future, by_block: bool, known: Known) -> None:
        super().__init__(future, by_block)
        self._known = known

    def key(self, node: Node) -> tuple[float, ...]:
        """Of what is due already, what came in last goes first: it is served last."""
        at_s = self._next_use_s(node)
        if at_s == NEVER:
            return -NEVER, -NEVER, node.last_access_s
        distance_s = max(round(at_s - round(self._future.now_s, 6), 6), 0.0)
        return -distance_s * node.num_blocks / self._miss_s(node), -at_s, node.last_access_s

    def _miss_s(self, node: Node) -> float:
        costs, size = self._known.costs, self._known.block_size
        if node.gpu and (node.host or self._known.copies_at_eviction):
            return costs.load_s(node.num_blocks * size)
        return costs.prefill_s(node.start * size, node.num_blocks * size)
