"""The queue of candidates: who leads it, and that looking changes nothing."""

from __future__ import annotations

import pytest

from pbkv.cache.queue import CandidateQueue
from pbkv.cache.tree import Node


class Marks:
    """An order by a number that each node has been given; those without one are no candidates."""

    def __init__(self, **marks: int) -> None:
        self.marks = marks
        self.nodes = {name: _node(name, serial) for serial, name in enumerate(marks)}
        self.queue = CandidateQueue(self, lambda node: node.owner in self.marks)
        for node in self.nodes.values():
            self.queue.add(node)

    def key(self, node: Node) -> int:
        return self.marks[node.owner]

    def queued(self, node: Node) -> None:
        """Keys may fall."""

    def leading(self, num_blocks: int) -> str:
        return "".join(node.owner for node in self.queue.leading(num_blocks))

    def popped(self) -> str:
        return "".join(node.owner for node in iter(self.queue.pop, None))


def _node(name: str, serial: int) -> Node:
    """Two blocks."""
    return Node(None, [serial + 1], [2], 0, serial, name)


@pytest.mark.parametrize(
    ("num_blocks", "expected"), [(0, ""), (1, "a"), (2, "a"), (3, "ab"), (4, "ab"), (6, "abc"), (99, "abcd")]
)
def test_the_leading_ones_in_order_until_they_hold_as_many_blocks(num_blocks: int, expected: str) -> None:
    order = Marks(d=4, b=2, a=1, c=3)
    assert order.leading(num_blocks) == expected


def test_they_stay_queued() -> None:
    order = Marks(b=2, a=1, c=3)
    assert [order.leading(4) for _ in range(3)] == ["ab"] * 3
    first = order.queue.peek()
    assert first is order.nodes["a"]
    assert order.popped() == "abc"
    assert order.leading(4) == ""


def test_keys_that_have_risen_or_fallen_count_as_they_are_now() -> None:
    order = Marks(a=1, b=2, c=3)
    order.marks["a"] = 9  # by a use, which is not told
    order.marks["c"] = 0
    order.queue.update(order.nodes["c"])
    assert order.leading(99) == "cba"
    assert order.popped() == "cba"


def test_who_is_no_candidate_any_more_does_not_lead() -> None:
    order = Marks(a=1, b=2, c=3)
    del order.marks["a"]
    assert order.leading(2) == "b"
    assert order.popped() == "bc"


def test_each_leads_once_even_if_the_heap_is_tidied_meanwhile() -> None:
    """f's key falls again and again: sooner or later its old entries are cleared away as r's key rises."""
    for num_falls in range(150):
        order = Marks(a=0, n=1, o=1, p=1, q=1, r=2, f=1000)
        for _ in range(num_falls):
            order.marks["f"] -= 1
            order.queue.update(order.nodes["f"])
        for gone in "nopq":
            del order.marks[gone]
        order.marks["r"] = 3
        assert order.leading(99) == "arf", num_falls
        assert order.leading(99) == order.popped() == "arf", num_falls
