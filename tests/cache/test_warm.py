"""Warm first: whose requests go first, whose entries go first, and who waits for whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.cache.config import CacheConfig, WriteMode
from pbkv.cache.decisions import Lease
from pbkv.cache.known import Known, MissCosts
from pbkv.cache.named import make_policy
from pbkv.cache.patience import Patience
from pbkv.cache.warm import AnyRead
from pbkv.predict.forecast import Forecast
from pbkv.serve.config import EngineConfig
from pbkv.serve.request import Request
from pbkv.traces.schema import Workflow
from tests.cache.world import B, World, flow
from tests.serve.test_fused import PROFILE, play
from tests.strategies import workflows

A_TOKEN_S = 0.01  # to compute; nothing for pairs


def make(gpu_blocks: int, *, copies_at_eviction: bool = False) -> tuple[World, Patience]:
    costs = MissCosts(A_TOKEN_S, 0.0, 0.0, A_TOKEN_S / 100)
    known = Known(None, costs, block_size=B, copies_at_eviction=copies_at_eviction)
    world = World(make_policy("warm-first", known=known), gpu_blocks)
    rule = world.manager.policy.admission
    assert isinstance(rule, Patience)
    return world, rule


def admits(world: World, rule: Patience, workflow: Workflow, position: int = 0) -> bool:
    asking = world.asking(workflow, position)
    asking.submitted_at_s = 0.0
    return rule.admits(asking, world.manager, world.now_s)


# ---------------------------------------------------------------------- order of requests


def in_order(world: World, *asked: tuple[Workflow, int], at_s: float = 0.0) -> list[tuple[Workflow, int]]:
    order = world.manager.policy.request_order
    assert order is not None
    asking = [world.asking(workflow, position) for workflow, position in asked]
    for request in asking:
        request.submitted_at_s = world.now_s
    asking.sort(key=lambda request: order.key(request, world.manager, world.now_s + at_s))
    return [(request.described, request.position) for request in asking]


def test_where_nothing_is_missing_workflows_go_as_they_came() -> None:
    world, _ = make(40)
    early, late = flow("x", "aa"), flow("y", "aa")
    world.serve(early)
    world.serve(late)
    for workflow in (late, early):
        world.submit(workflow, 1)
    assert in_order(world, (late, 1), (early, 1)) == [(early, 1), (late, 1)]


def test_who_finds_its_context_goes_before_who_came_a_little_earlier() -> None:
    """``early`` would compute 40 tokens for 0.4 s while two calls are in the engine; it came 0.5 s before."""
    world, _ = make(40)
    early, warm = flow("x", "aa", own=40), flow("y", "aa", own=8)
    world.submit(early)
    world.serve(warm, takes_s=0.5)
    world.submit(warm, 1)
    assert in_order(world, (early, 0), (warm, 1)) == [(warm, 1), (early, 0)]


def test_but_not_before_who_came_long_before() -> None:
    world, _ = make(40)
    early, warm = flow("x", "aa", own=40), flow("y", "aa", own=8)
    world.submit(early)
    world.serve(warm, takes_s=1.5)
    world.submit(warm, 1)
    assert in_order(world, (warm, 1), (early, 0)) == [(early, 0), (warm, 1)]


def test_what_is_missing_is_looked_up_again_as_the_wait_grows() -> None:
    """``cold`` lacks 72 tokens, 0.72 s for two calls; ``other`` came a second later and lacks nothing."""
    world, _ = make(40)
    cold, other = flow("x", "ab", own=72), flow("y", "aa", own=40)
    world.serve(cold)
    world.serve(other)
    world.submit(cold, 1)
    world.submit(other, 1)
    assert in_order(world, (other, 1), (cold, 1)) == [(other, 1), (cold, 1)]
    world.manager.workflow_ended(other, world.now_s)
    world.serve(flow("z", "a", own=80))  # takes the place of what ``other`` had
    assert in_order(world, (other, 1), (cold, 1), at_s=10.0)[0] == (cold, 1)


def test_any_policy_can_be_ordered_so() -> None:
    assert make_policy("lru+warm").other_parts == ("request order",)
    assert make_policy("infinite+warm").other_parts == ("request order",)


# ---------------------------------------------------------------------- order of eviction


def test_of_two_alike_the_one_used_last_stays() -> None:
    world, _ = make(6)
    first, last = flow("x", "aa"), flow("y", "aa")
    world.serve(first)
    world.serve(last)
    world.serve(flow("z", "a", own=16))
    assert (world.blocks_of(first), world.blocks_of(last)) == (0, 2)


def test_what_has_ended_goes_before_what_lives() -> None:
    world, _ = make(6)
    lives, ended = flow("y", "aa"), flow("x", "a")
    world.serve(lives)
    world.serve(ended)
    world.serve(flow("z", "a", own=16))
    assert (world.blocks_of(ended), world.blocks_of(lives)) == (0, 2)


def test_what_is_not_read_again_goes_before_what_is_older() -> None:
    """Learnt from ended workflows: a calls once and never again, b twice."""
    world, _ = make(40)
    for name in "opqrstu":
        world.play(flow(name, "abb"))
    old, young = flow("x", "abb"), flow("y", "abb")
    for workflow in (old, young):
        world.serve(workflow, 0)
        world.serve(workflow, 1)
    key = world.manager.policy.gpu_order.key
    b_of_old, a_of_young = (
        world.manager.tree.match(world.path(*of), 10**6).nodes[-1] for of in ((old, 1), (young, 0))
    )
    assert key(a_of_young) < key(b_of_old)


def test_who_is_silent_counts_as_ended() -> None:
    """Its end message may be lost: else its entries would stay for ever."""
    world, _ = make(6)
    lost, lives = flow("x", "aa"), flow("y", "aaaa")
    world.serve(lost)
    for position in range(3):  # waits of a second, so that it is silent after thirty
        world.serve(lives, position)
    world.now_s += 31.0
    world.submit(lives, 3)
    world.serve(flow("z", "a", own=16))
    assert (world.blocks_of(lost), world.blocks_of(lives)) == (0, 2)


def test_the_chance_of_any_read_counts_survival_once() -> None:
    """Two agents and END: alive before step 2 with .7."""
    forecast: Forecast = np.array([[0.5, 0.2, 0.3], [0.4, 0.6, 0.0]])
    assert AnyRead()(forecast) == pytest.approx([1 - 0.5 * (1 - 0.7 * 0.4), 1 - 0.8 * (1 - 0.7 * 0.6)])


# ---------------------------------------------------------------------- patience


def test_a_young_request_waits_rather_than_displace_an_older_workflow() -> None:
    """16 tokens would have to be computed again, 0.16 s; three run, so it waits for 0.48 s."""
    world, rule = make(10)
    old, young = flow("x", "aa", own=16), flow("y", "a", own=40)
    world.serve(old, takes_s=0.0)
    for name in "uvw":  # they wait: three sequences run
        world.submit(flow(name, "a"))
        rule.touched(world.manager.tree.root, lease_of(world, flow(name, "a")))
    world.submit(young)
    assert not admits(world, rule, young)
    world.now_s = 10.0
    assert admits(world, rule, young)


def test_an_older_request_displaces_a_younger_workflow_at_once() -> None:
    world, rule = make(8)
    old, young = flow("x", "ab", own=16), flow("y", "aa", own=16)
    world.serve(old, takes_s=0.0)
    world.serve(young, takes_s=0.0)
    world.submit(old, 1)
    assert admits(world, rule, old, 1)


def test_what_fits_or_finds_only_retired_entries_starts_at_once() -> None:
    world, rule = make(8)
    ended, young = flow("x", "a", own=16), flow("y", "a", own=20)
    world.serve(ended, takes_s=0.0)
    world.submit(young)
    assert admits(world, rule, young)


def test_an_answer_holds_until_a_call_ends() -> None:
    world, rule = make(10)
    old, young = flow("x", "aa", own=16), flow("y", "a", own=40)
    world.serve(old, takes_s=0.0)
    other = flow("u", "a", own=4)
    world.submit(other)
    running = world.start(other)
    world.submit(young)
    assert not admits(world, rule, young)
    world.manager.workflow_ended(old, world.now_s)  # all that is cached is retired
    assert admits(world, rule, young)
    world.finish(other, 0, running, is_last=True)


def lease_of(world: World, workflow: Workflow) -> Lease:
    return Lease(world.path(workflow, 0), workflow.workflow_id, "a", world.manager.tree.root)


# ---------------------------------------------------------------------- nobody starves


@given(
    trace=workflows(),
    gpu_blocks=st.integers(17, 40),
    host_blocks=st.sampled_from([0, 8]),
    mode=st.sampled_from([WriteMode.WRITE_THROUGH, WriteMode.EXCLUSIVE]),
    sequences=st.sampled_from([1, 2, 8]),
    concurrency=st.sampled_from([1, 2, 5]),
)
@settings(max_examples=100, deadline=None)
def test_nobody_starves(
    trace: list[Workflow],
    gpu_blocks: int,
    host_blocks: int,
    mode: WriteMode,
    sequences: int,
    concurrency: int,
) -> None:
    """While a request waits, only such start whose workflows came little later, or while its patience lasted.

    The bounds: what the whole pool costs to compute again, times the calls in the engine (order), and times
    the sequences that may run (patience).
    """
    cache = CacheConfig(gpu_blocks, host_blocks, 4, mode, min_load_tokens=2, watermark_blocks=1)
    engine = EngineConfig(64, sequences)
    ended, _ = play(trace, cache, engine, concurrency, "warm-first", 1e8, faulty=False)
    arrivals = {r.workflow.workflow_id: r.submitted_at_s for r in reversed(by_submission(ended))}
    pool_s = PROFILE.miss_costs.prefill_s(0, gpu_blocks * 4)
    later_s, patience_s = len(ended) * pool_s, sequences * gpu_blocks * 4 * pool_s
    for waits in ended:
        for passes in ended:
            arrived_s = arrivals[waits.workflow.workflow_id]
            is_later = arrivals[passes.workflow.workflow_id] > arrived_s + later_s
            was_waiting = waits.submitted_at_s < passes.admitted_at_s < waits.admitted_at_s
            if is_later and was_waiting:
                assert passes.admitted_at_s <= waits.submitted_at_s + patience_s


def by_submission(requests: list[Request]) -> list[Request]:
    return sorted(requests, key=lambda request: request.submitted_at_s)
