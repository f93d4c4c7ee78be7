"""What an agent's last call in its workflow did not read, it will not read again.

The paper's A_w(c) counts all agents that have ever touched an entry. Where prompts grow by appending that
is the same. Where an agent starts anew (a summary takes the place of a history, a sub-agent is called
for another task), the prompt left behind keeps the score of its agent for as long as the workflow lives,
and what will be read goes in its place. Here an agent's bit is on the path of its last call alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbkv.cache.activity import TimedActivity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pbkv.cache.decisions import Lease
    from pbkv.cache.tree import Node


class LastCallActivity(TimedActivity):
    """`TimedActivity` whose nodes know the agents whose last calls have read them.

    A node that no agent's last call has read stays its workflow's, with a score of 0.
    """

    def touched(self, node: Node, lease: Lease) -> None:
        super().touched(node, lease)
        bit, ends = self._bits[lease.agent], self._active[lease.owner].ends
        before, ends[bit] = ends.get(bit), node
        if before is not None and before is not node and before is not node.parent:
            for left in _off_path(before, node):
                self._leave(left, lease.owner, bit)

    def _leave(self, node: Node, workflow_id: str, bit: int) -> None:
        """``node`` is not on the path of the agent's last call."""
        agents = (node.tags or {}).get(workflow_id)
        if node.tags is not None and agents is not None:
            node.tags[workflow_id] = agents & ~bit
            if node.serial in self._sums:
                self._add_to_sums(self._sums[node.serial], workflow_id)


def _off_path(node: Node | None, end: Node) -> Iterator[Node]:
    """``node`` and those above it that are not on the path to ``end``, from below."""
    path: set[Node] = set()
    at: Node | None = end
    while at is not None:
        path.add(at)
        at = at.parent
    while node is not None and node not in path:
        yield node
        node = node.parent
