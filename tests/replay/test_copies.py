"""What the engine is told of copies: when the next one ends, and how long to wait where there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import simpy

from pbkv.replay.copies import RealCopies
from pbkv.replay.pace import Pace
from pbkv.replay.page_tables import PageTables
from pbkv.replay.transfers import Transfer


def test_in_real_time_an_idle_engine_without_a_host_tier_waits_for_the_next_event() -> None:
    env, pace = simpy.Environment(), Pace()
    tables, nothing = PageTables(4, 0), cast("Any", None)
    copies = RealCopies(env, nothing, nothing, tables, None, pace, 1, is_real_time=True)
    env.timeout(0.05)
    waited_s = copies.idle_s(wants_offloads=False)
    assert waited_s is not None
    assert waited_s >= 0.049  # not asked again and again until then


@dataclass
class Lane:
    """One that has copied ``num_bytes`` in ``busy_s``, and now does as it is told."""

    num_bytes: int
    busy_s: float
    is_ahead: bool = False
    queue: list[Transfer] = field(default_factory=list)


class Lanes:
    """Stands for `Transfers`: an h2d lane of 100 bytes a second and a d2h lane of 10."""

    def __init__(self) -> None:
        self.h2d, self.d2h = Lane(200, 2.0), Lane(20, 2.0)

    def submit(self, lane: Lane, transfer: Transfer) -> None:
        lane.queue.append(transfer)
        transfer.number = len(lane.queue)


def copies_on(lanes: Lanes, tiers: Any = None) -> RealCopies:
    """Blocks are of 10 bytes; nodes are what they hold, pages in both tiers."""
    pages: Any = SimpleNamespace(
        on_host=lambda nodes: nodes, on_gpu=lambda nodes: nodes, copy_begun=lambda *_, is_up: None
    )
    both, nothing = cast("Any", lanes), cast("Any", None)
    return RealCopies(simpy.Environment(), tiers, nothing, pages, both, Pace(), 10)


def load_of(num_blocks: int) -> Any:
    return SimpleNamespace(nodes=list(range(num_blocks)))


def test_the_next_load_to_end_is_the_most_urgent_one_and_not_the_oldest() -> None:
    lanes = Lanes()
    copies = copies_on(lanes)
    assert copies.next_load_end_s == float("inf")
    copies.start_prefetch(load_of(50))
    assert copies.next_load_end_s == 5.0
    copies.start_load(load_of(20))
    copies.start_load(load_of(10))  # behind the one before it
    assert copies.next_load_end_s == 2.0
    lanes.h2d.queue[1].num_done = 5
    assert copies.next_load_end_s == 1.5
    lanes.h2d.queue[0].num_done = 50  # has ended, and nobody has looked yet
    assert copies.next_load_end_s == 0.0


def test_the_next_offload_ends_at_the_pace_of_its_own_direction() -> None:
    tiers = SimpleNamespace(offloads=[1], take_offloads=lambda: [SimpleNamespace(nodes=[1], evicts=True)])
    copies = copies_on(Lanes(), tiers)
    assert copies.next_offload_end_s == float("inf")
    copies.start_offloads()
    assert copies.next_offload_end_s == 1.0
