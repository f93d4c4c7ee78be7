"""Oldest first: whose requests go first, whose entries go first, and who waits for whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.cache.config import CacheConfig, WriteMode
from pbkv.cache.decisions import Lease
from pbkv.cache.known import Known, MissCosts
from pbkv.cache.named import make_policy
from pbkv.cache.oldest import AnyRead
from pbkv.cache.patience import Patience
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
    world = World(make_policy("oldest-first", known=known), gpu_blocks)
    rule = world.manager.policy.admission
    assert isinstance(rule, Patience)
    return world, rule


def admits(world: World, rule: Patience, workflow: Workflow, position: int = 0) -> bool:
    asking = world.asking(workflow, position)
    asking.submitted_at_s = 0.0
    return rule.admits(asking, world.manager, world.now_s)


# ---------------------------------------------------------------------- order of requests


def test_requests_go_by_the_arrival_of_their_workflows() -> None:
    world, _ = make(40)
    early, late = flow("x", "aa"), flow("y", "aa")
    world.serve(early)
    world.serve(late)
    for workflow in (late, early):
        world.submit(workflow, 1)
    order = world.manager.policy.request_order
    assert order is not None
    asking = [world.asking(workflow, 1) for workflow in (late, early)]
    asking.sort(key=lambda request: order.key(request, world.manager, world.now_s))
    assert [request.described for request in asking] == [early, late]


def test_any_policy_can_be_ordered_by_arrival() -> None:
    assert make_policy("lru+arrival").other_parts == ("request order",)
    assert make_policy("infinite+arrival").other_parts == ("request order",)


# ---------------------------------------------------------------------- order of eviction


def test_of_two_alike_the_one_that_arrived_last_gives_way() -> None:
    world, _ = make(6)
    first, last = flow("x", "aa"), flow("y", "aa")
    world.serve(first)
    world.serve(last)
    world.serve(flow("z", "a", own=16))
    assert (world.blocks_of(first), world.blocks_of(last)) == (2, 0)


def test_what_has_ended_goes_before_what_is_younger() -> None:
    world, _ = make(6)
    ended, lives = flow("x", "a"), flow("y", "aa")
    world.serve(ended)
    world.serve(lives)
    world.serve(flow("z", "a", own=16))
    assert (world.blocks_of(ended), world.blocks_of(lives)) == (0, 2)


def test_what_is_not_read_again_goes_before_what_is_younger() -> None:
    """Learnt from ended workflows: a calls once and never again, b twice."""
    world, _ = make(40)
    for name in "opqrstu":
        world.play(flow(name, "abb"))
    old, young = flow("x", "abb"), flow("y", "abb")
    for workflow in (old, young):
        world.serve(workflow, 0)
        world.serve(workflow, 1)
    key = world.manager.policy.gpu_order.key
    a_of_old, b_of_young = (
        world.manager.tree.match(world.path(*of), 10**6).nodes[-1] for of in ((old, 0), (young, 1))
    )
    assert key(a_of_old) < key(b_of_young)


def test_who_is_silent_counts_as_ended() -> None:
    """Its end message may be lost: else it would be the oldest for ever."""
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
    """While a request waits, only such start as are older, were let in before its patience ended, or run.

    The bound: what the whole pool costs to compute again, times the sequences that may run.
    """
    cache = CacheConfig(gpu_blocks, host_blocks, 4, mode, min_load_tokens=2, watermark_blocks=1)
    engine = EngineConfig(64, sequences)
    ended, _ = play(trace, cache, engine, concurrency, "oldest-first", 1e8, faulty=False)
    arrivals = {r.workflow.workflow_id: r.submitted_at_s for r in reversed(by_submission(ended))}
    most_s = sequences * pool_s(gpu_blocks * 4)
    for waits in ended:
        for passes in ended:
            is_younger = arrivals[passes.workflow.workflow_id] > arrivals[waits.workflow.workflow_id]
            was_waiting = waits.submitted_at_s < passes.admitted_at_s < waits.admitted_at_s
            if is_younger and was_waiting:
                assert passes.admitted_at_s <= waits.submitted_at_s + most_s


def by_submission(requests: list[Request]) -> list[Request]:
    return sorted(requests, key=lambda request: request.submitted_at_s)


def pool_s(num_tokens: int) -> float:
    return num_tokens * PROFILE.miss_costs.prefill_s(num_tokens, 1)
