"""Agents' fixed prompts, found while serving: what an agent's prompts in different workflows share.

The leading blocks common to all prompts of an agent so far, of at least two workflows: nothing is known of
an agent before a second workflow calls it, and an agent whose prompts begin differently has no fixed
prompt. So a trace needs no kinds of segments. Nodes of the tree that lie within an agent's fixed prompt
carry its name among their tags; one that reaches beyond it (it was added whole, and nobody has yet parted
from it) counts as not fixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbkv.cache.blocks import shared_runs

if TYPE_CHECKING:
    from pbkv.cache.blocks import BlockPath
    from pbkv.cache.tree import Node


class FixedPrompt:
    """Of one agent. ``num_blocks`` is None until two workflows have been compared."""

    __slots__ = ("_deepest", "_last_key", "_last_run", "_model", "_model_owner", "name", "num_blocks")

    def __init__(self, name: str) -> None:
        self.name = name  # among the tags of nodes
        self.num_blocks: int | None = None
        self._model: BlockPath | None = None  # the first prompt, with which others are compared
        self._model_owner = ""
        self._last_run, self._last_key = -1, 0  # of the fixed prompt on the model
        self._deepest: Node | None = None  # marked

    def use(self, node: Node, path: BlockPath, owner: str) -> list[Node]:
        """A call of ``owner`` with the prompt ``path`` uses the tree down to ``node``.

        Marks what is fixed; returns the nodes that are not any more.
        """
        released = self._learn(path, owner)
        if self.num_blocks and not self._is_marked():
            self._mark(node, self.num_blocks)
        return released

    def nodes(self) -> list[Node]:
        """The marked nodes, deepest first (some may have left the tree)."""
        found, at = [], self._deepest
        while at is not None and at.parent is not None:
            found.append(at)
            at = at.parent
        return found

    def _learn(self, path: BlockPath, owner: str) -> list[Node]:
        if self._model is None:
            self._model, self._model_owner = path, owner
            return []
        last = self._last_run
        if owner == self._model_owner or self.num_blocks == 0:
            return []
        if self.num_blocks is not None and last < len(path.keys) and path.keys[last] == self._last_key:
            return []
        num_runs = shared_runs(self._model, path)
        self._last_run, self.num_blocks = num_runs - 1, self._model.ends[num_runs - 1] if num_runs else 0
        self._last_key = self._model.keys[num_runs - 1] if num_runs else 0
        return self._release(self.num_blocks)

    def _release(self, num_blocks: int) -> list[Node]:
        released = [node for node in self.nodes() if node.end > num_blocks]
        for node in released:
            if node.tags:
                node.tags.pop(self.name, None)
            self._deepest = node.parent
        return released

    def _is_marked(self) -> bool:
        """Whether the whole fixed prompt is in the tree, and marked."""
        node = self._deepest
        if node is None or node.end != self.num_blocks or node.parent is None:
            return False
        return node.parent.children.get(node.keys[0]) is node

    def _mark(self, node: Node, num_blocks: int) -> None:
        at = node
        while at.end > num_blocks and at.parent is not None:
            at = at.parent
        self._deepest = at
        while at.parent is not None and self.name not in (at.tags or ()):
            at.tags = {**(at.tags or {}), self.name: 1}
            at = at.parent
