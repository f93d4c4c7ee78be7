"""A link: urgent copies queue, background copies give way, two directions share the bus."""

from __future__ import annotations

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
    link = make()
    copy = link.submit_background(4 * SLICE_BYTES, 0.0)
    assert link.submit(SLICE_BYTES, 1.5) == (2.0, 3.0)
    assert link.advance(100.0) == [copy]
    assert copy.done_at_s == 5.0


def test_background_copies_use_an_idle_link_in_order() -> None:
    link = make()
    first, second = link.submit_background(SLICE_BYTES, 0.0), link.submit_background(SLICE_BYTES // 2, 0.0)
    assert link.advance(0.5) == [first]
    assert link.advance(5.0) == [second]
    assert (first.done_at_s, second.done_at_s) == (1.0, 1.5)


def test_a_busy_other_direction_slows_a_copy_down() -> None:
    up, down = make(), make()
    up.other, down.other = down, up
    assert up.submit(SLICE_BYTES, 0.0) == (0.0, 1.0)
    assert down.submit(SLICE_BYTES, 0.5) == (0.5, 2.5)
    assert up.submit(SLICE_BYTES, 3.0) == (3.0, 4.0)
