"""A link: urgent copies queue, background copies give way, two directions share the bus."""

from __future__ import annotations

from typing import Any

import simpy

from pbkv.sim.background import Background
from pbkv.sim.link import SLICE_BYTES, Link


def make(per_s: float = float(SLICE_BYTES)) -> Link:
    """A link that takes a second for a slice, two while the other direction is busy."""
    return Link(lambda num_bytes, other_busy: num_bytes / per_s * (2 if other_busy else 1))


def test_urgent_copies_wait_for_each_other() -> None:
    link = make()
    assert link.submit(3 * SLICE_BYTES, 1.0) == (1.0, 4.0)
    assert link.submit(SLICE_BYTES, 2.0) == (4.0, 5.0)
    assert link.submit(SLICE_BYTES, 9.0) == (9.0, 10.0)
    assert link.busy_s == 5.0


def test_an_urgent_copy_waits_for_one_background_slice_at_most() -> None:
    link, env, ended = in_background()
    background = Background[str](env, link, lambda copy: ended.append((copy.item, env.now)))
    background.submit("a", 4 * SLICE_BYTES)
    env.run(until=1.5)
    assert link.submit(SLICE_BYTES, 1.5) == (2.0, 3.0)
    assert (link.num_delayed, link.delayed_s) == (1, 0.5)
    env.run()
    assert ended == [("a", 5.0)]


def test_background_copies_use_an_idle_link_in_order() -> None:
    link, env, ended = in_background()
    background = Background[str](env, link, lambda copy: ended.append((copy.item, env.now)))
    link.submit(SLICE_BYTES, 0.0)
    background.submit("a", SLICE_BYTES)
    background.submit("b", SLICE_BYTES // 2)
    env.run()
    assert ended == [("a", 2.0), ("b", 2.5)]


def test_a_background_copy_can_be_made_urgent_or_taken_back() -> None:
    link, env, ended = in_background()
    background = Background[str](env, link, lambda copy: ended.append((copy.item, copy.left_bytes)))
    for item in "abcd":
        background.submit(item, 2 * SLICE_BYTES)
    env.run(until=0.5)
    assert background.make_urgent("a") is None  # in service: handed over when its slice ends
    urgent = background.make_urgent("c")
    assert urgent is not None
    assert (urgent.item, urgent.left_bytes) == ("c", 2 * SLICE_BYTES)
    assert background.take_back() == ["d", "b"]
    env.run()
    assert ended == [("a", SLICE_BYTES)]


def in_background() -> tuple[Link, simpy.Environment, list[Any]]:
    return make(), simpy.Environment(), []


def test_a_busy_other_direction_slows_a_copy_down() -> None:
    up, down = make(), make()
    up.other, down.other = down, up
    assert up.submit(SLICE_BYTES, 0.0) == (0.0, 1.0)
    assert down.submit(SLICE_BYTES, 0.5) == (0.5, 2.5)
    assert up.submit(SLICE_BYTES, 3.0) == (3.0, 4.0)
