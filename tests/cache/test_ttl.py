"""Time-to-live pinning: for how long, for whom, and who loses its pin first."""

from __future__ import annotations

import pytest

from pbkv.cache.best_ttl import BestTtl
from pbkv.cache.named import make_policy
from pbkv.cache.policy import PrefillCost
from pbkv.cache.ttl import InTimeFirst
from pbkv.traces.errors import ConfigError
from tests.cache.world import World, flow


def test_what_waits_for_a_tool_outlives_what_was_used_later() -> None:
    world, waits, ended, third = World("ttl:5", 4), flow("x", "aa"), flow("y", "a"), flow("z", "a")
    for workflow in (waits, ended, third):
        world.serve(workflow)
    assert (world.blocks_of(waits), world.blocks_of(ended)) == (2, 0)


def test_a_pin_runs_out() -> None:
    world, waits, ended = World("ttl:5", 4), flow("x", "aa"), flow("y", "a")
    world.serve(waits)
    world.serve(ended)
    world.serve(flow("z", "a"), takes_s=6.0)
    assert (world.blocks_of(waits), world.blocks_of(ended)) == (0, 2)


def test_when_all_is_pinned_the_one_that_arrived_last_gives_way() -> None:
    world, first, last = World("ttl:5", 4), flow("x", "aa"), flow("y", "aa")
    world.serve(first)
    world.serve(last)
    world.serve(flow("z", "a"))
    assert (world.blocks_of(first), world.blocks_of(last)) == (2, 0)


def test_who_comes_back_in_time_goes_first_then_who_arrived_first() -> None:
    world = World("ttl:5", 40)
    early, late, slow = flow("x", "aa"), flow("y", "aa"), flow("w", "aa")
    world.serve(slow)
    world.now_s += 10.0  # its pin runs out
    world.serve(early)
    world.serve(late)
    for workflow in (slow, late, early):
        world.submit(workflow, 1)
    order = world.manager.policy.request_order
    assert isinstance(order, InTimeFirst)
    asking = [world.asking(workflow, 1) for workflow in (slow, late, early)]
    asking.sort(key=lambda request: order.key(request, world.manager, world.now_s))
    assert [request.described for request in asking] == [early, late, slow]


def test_a_request_in_time_keeps_its_pin_until_its_prompt_is_computed() -> None:
    world, waits, ended = World("ttl:5", 6), flow("x", "aab"), flow("y", "a")
    world.serve(waits)
    world.now_s += 3.0
    world.submit(waits, 1)  # and the engine is busy
    world.serve(ended, takes_s=10.0)
    world.serve(flow("z", "a", own=16))
    assert (world.blocks_of(waits), world.blocks_of(ended)) == (2, 0)
    world.start(waits, 1)
    assert not any(node.tags for node in world.manager.tree.nodes())


def best(waits_s: list[float], *, gpu_blocks: int = 100, cost: PrefillCost = PrefillCost(0, 1, 0)) -> BestTtl:  # noqa: B008
    ttl = BestTtl(cost)
    ttl.begun(World("lru", gpu_blocks).manager.config)
    for wait_s in waits_s:
        ttl.waited("a", wait_s)
    return ttl


def test_the_best_ttl_covers_the_short_waits_and_not_the_long_ones() -> None:
    """10 of 100 blocks, 10 s to reload: 90 % come back within 2 s, which is worth 9 − 0.2; 500 s is not."""
    assert best([2.0] * 90 + [500.0] * 10).ttl_s("a", 10) == 2.0


def test_it_does_not_pin_what_never_comes_back_soon_enough() -> None:
    assert best([500.0] * 20).ttl_s("a", 10) == 0.0


def test_it_is_two_seconds_before_anything_was_seen() -> None:
    assert best([]).ttl_s("a", 10) == 2.0


def test_few_waits_after_an_agent_are_judged_by_all() -> None:
    ttl = best([1.0] * 100)
    ttl.waited("b", 7.0)
    assert ttl.ttl_s("b", 10) == 1.0
    for _ in range(100):
        ttl.waited("b", 7.0)
    assert ttl.ttl_s("b", 10) == 7.0


def test_waits_in_the_queue_make_a_pin_worth_more_where_lengths_are_regular() -> None:
    cheap = PrefillCost(0, 0.001, 0)
    assert best([2.0] * 9 + [5.0], cost=cheap).ttl_s("a", 10) == 0.0
    for lengths, expected in (([4] * 5, 5.0), ([1, 1, 1], 0.0)):
        ttl = best([2.0] * 9 + [5.0], cost=cheap)
        ttl.queued(100.0, 100)  # a second a block
        for length in lengths:
            ttl.ended(length)
        assert ttl.ttl_s("a", 10) == expected


@pytest.mark.parametrize("name", ["ttl:", "ttl:soon", "ttl:-1", "ttl:nan", "ttl:inf"])
def test_a_bad_time_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="policy"):
        make_policy(name)
