"""GDSF (Cherkasova, HPL-98-69): what is seldom used, and cheap to compute again for its size, goes first.

A node's key is L + uses · cost / size, set at each use of its path; L is the key of the last victim, so that
what is not used any more ages. Cost: the prefill of the node's blocks behind its prefix: a launch term, a
linear one, and one that grows with the depth (attention). Size in blocks. LRU among equal keys. A node that
is cut in two goes on with the key of the whole until it is used again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbkv.cache.visits import Visits

if TYPE_CHECKING:
    from pbkv.cache.policy import PrefillCost
    from pbkv.cache.tree import Node

_UsesAndKey = tuple[int, float]


class Gdsf(Visits[_UsesAndKey]):
    """One tier's order, with an L of its own."""

    def __init__(self, cost: PrefillCost) -> None:
        super().__init__()
        self._cost = cost
        self._inflation = 0.0

    def key(self, node: Node) -> tuple[float, float]:
        return self.state(node)[1], node.last_access_s

    def fresh(self, node: Node) -> _UsesAndKey:
        return self._used(node, 1)

    def visited(self, node: Node, state: _UsesAndKey) -> _UsesAndKey:
        return self._used(node, state[0] + 1)

    def left(self, node: Node, state: _UsesAndKey) -> None:
        self._inflation = max(self._inflation, state[1])

    def _used(self, node: Node, uses: int) -> _UsesAndKey:
        return uses, self._inflation + uses * self._cost.of(node.start, node.end) / node.num_blocks
