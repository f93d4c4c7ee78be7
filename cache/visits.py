"""Uses of a path, node by node: for orders that keep a mark or a key of their own on each node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from pbkv.cache.follower import Follower

if TYPE_CHECKING:
    from pbkv.cache.decisions import Lease
    from pbkv.cache.tree import Node

State = TypeVar("State")


class Visits(Follower, Generic[State]):
    """A state for each node of one tier; a use is a use of the whole matched path.

    What is cut off above a node goes on with a copy of its state. A node that leaves the tier is
    forgotten: its next use there is its first.
    """

    def __init__(self) -> None:
        self._states: dict[int, State] = {}  # by the node's serial
        self._hits: dict[int, int] = {}  # its uses as far as they are known
        self._victim: tuple[Node, State] | None = None  # the last: it may yet be cut

    def fresh(self, node: Node) -> State:
        """The state of a node that is new on this tier."""
        raise NotImplementedError

    def visited(self, node: Node, state: State) -> State:
        """``node`` has been used again: its state from now on."""
        raise NotImplementedError

    def left(self, node: Node, state: State) -> None:
        """``node`` leaves the tier for others' need."""

    def copied(self, state: State) -> State:
        """For the upper part of a node that has been cut. Needed where states are changed in place."""
        return state

    def state(self, node: Node) -> State:
        found = self._states.get(node.serial)
        if found is None:
            lower = self._cut_from(node)
            found = self._states[node.serial] = self.fresh(node) if lower is None else self.copied(lower)
        return found

    def touched(self, node: Node, lease: Lease) -> None:
        states, hits, at = self._states, self._hits, node
        while at.parent is not None and hits.get(at.serial) != at.num_hits:  # else all above is known too
            hits[at.serial] = at.num_hits
            is_known = at.serial in states or self._cut_from(at) is not None
            state = self.state(at)
            if is_known:
                states[at.serial] = self.visited(at, state)
            at = at.parent

    def evicted(self, node: Node) -> None:
        self._victim = node, self.state(node)
        self.left(node, self._victim[1])
        self.removed(node)

    def removed(self, node: Node) -> None:
        self._states.pop(node.serial, None)
        self._hits.pop(node.serial, None)

    def _cut_from(self, node: Node) -> State | None:
        """The state of the part below, if ``node`` is unknown because it has just been cut off."""
        for child in node.children.values():
            if child.serial in self._states:
                return self._states[child.serial]
            if self._victim is not None and child is self._victim[0]:
                return self._victim[1]
        return None
