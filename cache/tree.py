"""The prefix tree: a radix tree over runs of blocks, resident on the GPU, on the host, or on both.

A node is what one insertion added below its parent, as in SGLang's radix cache; it is cut in two when
a later path leaves it half-way. The tree knows structure and protection and nothing of policies:
which leaf goes first is decided in `eviction`, when and where to in `manager`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pbkv.traces.errors import InvariantError

if TYPE_CHECKING:
    from pbkv.cache.blocks import BlockPath, Key
    from pbkv.cache.decisions import Load, Offload


class Node:
    """Blocks ``start .. end`` of every path that runs through it.

    ``keys``/``ends`` are its runs (``ends`` absolute, in blocks). ``gpu`` and ``host`` say on which
    tiers it holds space; ``load``/``offload`` is the copy in flight that will make that space valid.
    ``refs`` counts its pins and its protected children: a node with ``refs`` is never evicted.
    """

    __slots__ = (
        "children",
        "end",
        "ends",
        "gpu",
        "host",
        "keys",
        "last_access_s",
        "load",
        "made_at_s",
        "num_gpu_children",
        "num_hits",
        "num_workflows",
        "offload",
        "owner",
        "parent",
        "prefetched",
        "refs",
        "serial",
        "start",
        "tags",
    )

    def __init__(
        self, parent: Node | None, keys: list[Key], ends: list[int], start: int, serial: int, owner: str
    ) -> None:
        self.parent = parent
        self.children: dict[Key, Node] = {}
        self.keys = keys
        self.ends = ends
        self.start = start
        self.end = ends[-1] if ends else start
        self.serial = serial
        self.owner = owner
        self.gpu = False
        self.host = False
        self.load: Load | None = None
        self.offload: Offload | None = None
        self.refs = 0
        self.num_gpu_children = 0
        self.num_hits = 0
        self.num_workflows = 0  # that have ever touched it; like `tags` kept only where a policy asks
        self.tags: dict[str, int] | None = None  # active workflow → its agents that have touched it, as bits
        self.prefetched = False  # copied up ahead, and not used since
        self.made_at_s = 0.0
        self.last_access_s = 0.0

    @property
    def num_blocks(self) -> int:
        return self.end - self.start

    def __repr__(self) -> str:
        tiers = "".join(name for name, held in (("G", self.gpu), ("H", self.host)) if held) or "-"
        return f"Node({self.start}..{self.end} {tiers} refs={self.refs} of {self.owner})"


@dataclass(slots=True)
class Match:
    """What the tree holds of a path: whole nodes from the root, and then perhaps part of one more."""

    nodes: list[Node]
    partial: Node | None
    num_blocks: int


class PrefixTree:
    """The radix tree and its two counts of blocks: those on the GPU, and those of them protected."""

    def __init__(self) -> None:
        self.root = Node(None, [], [], 0, 0, "")
        self.root.gpu = self.root.host = True
        self.gpu_blocks = 0
        self.protected_blocks = 0
        self._num_made = 0

    def match(self, path: BlockPath, limit: int) -> Match:
        """The leading blocks of ``path``, at most ``limit``, that are in the tree on any tier. Pure."""
        keys, ends = path.keys, path.ends
        num_runs = len(keys)
        nodes: list[Node] = []
        children, index, matched = self.root.children, 0, 0
        while index < num_runs and matched < limit:
            child = children.get(keys[index])
            if child is None:
                break
            index, reached = follow(child, keys, ends, index)
            if reached < child.end or reached > limit:
                return Match(nodes, child, min(reached, limit))
            nodes.append(child)
            children, matched = child.children, reached
        return Match(nodes, None, matched)

    def protected(self, path: BlockPath, limit: int) -> int:
        """How many of the blocks that `match` finds are protected on the GPU: always the leading ones."""
        keys, ends = path.keys, path.ends
        children, index, reached = self.root.children, 0, 0
        while index < len(keys) and reached < limit:
            child = children.get(keys[index])
            if child is None or not child.refs or not child.gpu:
                break
            index, reached = follow(child, keys, ends, index)
            if reached < child.end:
                break
            children = child.children
        return min(reached, limit)

    def add(self, parent: Node, path: BlockPath, owner: str, now_s: float) -> Node:
        """A new leaf below ``parent`` with the rest of ``path``. It holds no space yet."""
        first = bisect_right(path.ends, parent.end)
        self._num_made += 1
        node = Node(parent, path.keys[first:], path.ends[first:], parent.end, self._num_made, owner)
        node.made_at_s = node.last_access_s = now_s
        parent.children[node.keys[0]] = node
        return node

    def split(self, node: Node, at_block: int) -> Node:
        """Cut ``node`` at ``at_block``; the new upper half is returned, the lower keeps its identity."""
        cut = bisect_right(node.ends, at_block)
        inside = not (cut and node.ends[cut - 1] == at_block)  # the cut falls inside a run
        upper_keys = node.keys[: cut + inside]
        upper_ends = [*node.ends[:cut], at_block] if inside else node.ends[:cut]
        parent = parent_of(node)
        self._num_made += 1
        upper = Node(parent, upper_keys, upper_ends, node.start, self._num_made, node.owner)
        parent.children[upper_keys[0]] = upper
        node.keys, node.ends, node.start, node.parent = node.keys[cut:], node.ends[cut:], at_block, upper
        upper.children[node.keys[0]] = node
        _inherit(upper, node)
        return upper

    def remove(self, node: Node) -> None:
        """Take a childless node that holds no space out of the tree."""
        del parent_of(node).children[node.keys[0]]

    def hold_gpu(self, node: Node) -> None:
        """``node`` takes space on the GPU; its parent must already."""
        node.gpu = True
        parent_of(node).num_gpu_children += 1
        self.gpu_blocks += node.end - node.start
        if node.refs:
            self.protected_blocks += node.end - node.start

    def release_gpu(self, node: Node) -> None:
        """``node`` gives its space on the GPU back; it must be an unprotected GPU leaf."""
        node.gpu = False
        parent_of(node).num_gpu_children -= 1
        self.gpu_blocks -= node.end - node.start

    def pin(self, node: Node) -> None:
        """Protect ``node`` and all above it. Costs the part of the path not protected before."""
        at: Node | None = node
        while at is not None:
            at.refs += 1
            if at.refs > 1:
                return
            if at.gpu:
                self.protected_blocks += at.end - at.start
            at = at.parent

    def unpin(self, node: Node) -> list[Node]:
        """Undo one `pin`; the nodes that are unprotected now, deepest first."""
        freed = []
        at: Node | None = node
        while at is not None:
            at.refs -= 1
            if at.refs:
                break
            if at.gpu:
                self.protected_blocks -= at.end - at.start
            freed.append(at)
            at = at.parent
        return freed

    def nodes(self) -> Iterator[Node]:
        """Every node but the root, parents before children."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def check_invariants(self) -> None:
        """Structure, prefix closure, protection and counts; raises InvariantError at the first breach."""
        gpu_blocks = protected = 0
        for node in [self.root, *self.nodes()]:
            _check_node(node)
            if node is not self.root and node.gpu:
                gpu_blocks += node.num_blocks
                protected += node.num_blocks if node.refs else 0
        _require(gpu_blocks == self.gpu_blocks, f"gpu_blocks is {self.gpu_blocks}, nodes hold {gpu_blocks}")
        _require(protected == self.protected_blocks, f"{self.protected_blocks} protected, not {protected}")


def follow(child: Node, keys: list[Key], ends: list[int], index: int) -> tuple[int, int]:
    """How far a path follows ``child`` from its run ``index`` on: (next run, blocks reached)."""
    last = index + len(child.keys) - 1
    if last < len(keys) and keys[last] == child.keys[-1]:  # keys are chained: all between agree
        if ends[last] > child.end:
            return last, child.end
        return last + 1, ends[last]
    reached = child.start
    for key, end in zip(child.keys, child.ends, strict=True):
        if index == len(keys) or keys[index] != key:
            break
        reached = min(end, ends[index])
        if reached < end:
            break
        index += ends[index] == end
    return index, reached


def _inherit(upper: Node, lower: Node) -> None:
    upper.gpu, upper.host = lower.gpu, lower.host
    upper.made_at_s, upper.last_access_s = lower.made_at_s, lower.last_access_s
    upper.num_hits, upper.prefetched = lower.num_hits, lower.prefetched
    upper.num_workflows, upper.tags = lower.num_workflows, None if lower.tags is None else dict(lower.tags)
    upper.refs = 1 if lower.refs else 0
    upper.num_gpu_children = 1 if lower.gpu else 0
    upper.load, upper.offload = lower.load, lower.offload
    for copy in (lower.load, lower.offload):
        if copy is not None:
            copy.nodes.append(upper)


def deepest_first(nodes: Iterable[Node]) -> list[Node]:
    """For nodes of one path: children before their parents."""
    return sorted(nodes, key=lambda node: node.start, reverse=True)


def parent_of(node: Node) -> Node:
    """The parent of any node but the root."""
    if node.parent is None:
        raise InvariantError("the root has no parent")
    return node.parent


def _check_node(node: Node) -> None:
    children = node.children.values()
    _require(all(child.parent is node and child.start == node.end for child in children), f"{node}: links")
    _require(node.num_gpu_children == sum(c.gpu for c in children), f"{node}: num_gpu_children")
    _require(node.gpu or not node.num_gpu_children, f"{node}: a GPU child without its prefix")
    _require(node.gpu or node.host, f"{node}: holds no space")
    _require(node.refs >= sum(c.refs > 0 for c in children), f"{node}: fewer refs than protected children")
    _require(node.load is None or node.gpu, f"{node}: loads into no space")
    _require(node.offload is None or (node.host and node.gpu), f"{node}: offloads from or to no space")
    _require(not (node.load or node.offload) or node.refs > 0, f"{node}: a copy in flight, and unprotected")
    _require(all(child.keys and child.end > child.start for child in children), f"{node}: an empty child")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvariantError(message)
