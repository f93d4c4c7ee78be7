"""SIEVE (Zhang et al., NSDI 2024): a queue in order of insertion, and a hand that spares what was visited.

The hand goes from the oldest to the newest entry and round again; it takes the first one without a visit and
clears the visits that it passes. Here a key says when the hand will take an entry: (round of the hand, number
of insertion); a visit puts that off to the round after the hand's next passage. Over leaves: what the hand
passes while it cannot go (it has children, or is in use) waits for the next round. On a flat cache this is
SIEVE exactly, as a test with a plain queue and a hand shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbkv.cache.visits import Visits

if TYPE_CHECKING:
    from pbkv.cache.tree import Node

_Place = tuple[int, int]


class Sieve(Visits[_Place]):
    """One tier's order, with a hand of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._hand: _Place = (0, 0)
        self._num_made = 0

    def key(self, node: Node) -> _Place:
        place = self.state(node)
        if place < self._hand:  # passed while it could not go
            place = self._states[node.serial] = self._next_passage(place[1])
        return place

    def fresh(self, node: Node) -> _Place:
        self._num_made += 1
        return self._hand[0], self._num_made

    def visited(self, node: Node, state: _Place) -> _Place:
        number = state[1]
        return self._next_passage(number)[0] + 1, number

    def left(self, node: Node, state: _Place) -> None:
        self._hand = max(self._hand, state)

    def _next_passage(self, number: int) -> _Place:
        """When the hand comes to the entry ``number`` next."""
        around, at = self._hand
        return (around if number > at else around + 1), number
