"""Prefetch: stories of what is copied up ahead, into which space, and what becomes of it."""

from __future__ import annotations

import pytest

from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.decisions import Load
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import make_policy
from pbkv.cache.policy import PolicyOptions
from pbkv.cache.prefetch import Situation
from pbkv.traces.schema import Call, Workflow

B = 4
IDLE = Situation(is_pure_decode=True, step_blocks=100, num_in_flight=0)


def workflow(name: str, agents: str) -> Workflow:
    """One call an agent; agent i's prompt is private to the workflow and three blocks long."""
    calls = [
        Call(i, agent, (), None, (ord(agent) * 100 + ord(name),), (3 * B,), 1)
        for i, agent in enumerate(agents)
    ]
    return Workflow(name, "app", None, calls)


class World:
    """A GPU and a host tier under one policy with a perfect forecast; copies take no time unless kept."""

    def __init__(self, policy: str, gpu_blocks: int, reserve: int = 0, rho: float = 0.2) -> None:
        options = PolicyOptions("oracle", rho=rho)
        config = CacheConfig(gpu_blocks, 100, B, min_load_tokens=0, prefetch_reserve_blocks=reserve)
        self.manager = CacheManager(config, PathTable(B), make_policy(policy, options=options))
        self.now_s = 0.0

    def serve(self, flow: Workflow, position: int) -> int:
        """A whole call; the tokens it found on the GPU."""
        self.now_s += 1.0
        manager, call = self.manager, flow.calls[position]
        path = manager.table.path(call.segment_ids, call.segment_tokens)
        admission = manager.admit(path, flow.workflow_id, self.now_s, agent=call.agent)
        assert admission is not None
        for load in [*admission.waits_for, *([admission.load] if admission.load else [])]:
            manager.end_load(load)
        manager.commit(admission.lease, self.now_s)
        manager.call_computed(flow, position, self.now_s)
        manager.finish(admission.lease, None, 3 * B, self.now_s)
        for offload in manager.tiers.take_offloads():
            manager.tiers.end_offload(offload, self.now_s)
        if position == len(flow.calls) - 1:
            manager.workflow_ended(flow, self.now_s)
        manager.check_invariants()
        return admission.gpu_hit_tokens

    def prefetch(self, situation: Situation = IDLE) -> list[Load]:
        loads = self.manager.prefetch(situation, self.now_s)
        self.manager.check_invariants()
        return loads

    def end(self, loads: list[Load]) -> None:
        for load in loads:
            self.manager.end_load(load)
        self.manager.check_invariants()


def crowded(policy: str, reserve: int = 0, rho: float = 0.2) -> tuple[World, Workflow]:
    """x's prompt of a, which it needs next, was evicted by y and z; y has ended, z has not."""
    world = World(policy, 7, reserve, rho)
    x, y, z = workflow("x", "abab"), workflow("y", "c"), workflow("z", "dd")
    world.serve(x, 0)
    world.serve(z, 0)
    world.serve(y, 0)
    return world, x


def test_what_is_needed_next_takes_the_place_of_what_is_retired() -> None:
    world, x = crowded("pbkv")
    x_only = workflow("x", "aa")  # as the oracle sees it, a comes next
    world.manager.call_computed(x_only, 0, world.now_s)
    loads = world.prefetch()
    assert sum(load.num_blocks for load in loads) == 3
    world.end(loads)
    assert world.serve(x, 0) == 2 * B  # the last token is always computed, and with it its block
    counts = world.manager.tiers.prefetched
    assert (counts.started, counts.useful, counts.late, counts.wasted) == (3, 3, 0, 0)


@pytest.mark.parametrize(
    "situation", [Situation(False, 100, 0), Situation(True, 100, 1), Situation(True, 0, 0)]
)
def test_not_beside_prefill_nor_beside_another_prefetch_nor_beyond_a_step(situation: Situation) -> None:
    world, _ = crowded("pbkv")
    world.manager.call_computed(workflow("x", "aa"), 0, world.now_s)
    assert world.prefetch(situation) == []


def test_what_does_not_fit_into_a_step_is_cut_at_a_block() -> None:
    world, _ = crowded("pbkv")
    world.manager.call_computed(workflow("x", "aa"), 0, world.now_s)
    loads = world.prefetch(Situation(True, 2, 0))
    assert [load.num_blocks for load in loads] == [2]
    world.end(loads)
    assert [load.num_blocks for load in world.prefetch()] == [1]


def test_nobody_who_is_active_is_displaced_and_the_reserve_stays_free() -> None:
    world, _ = crowded("pbkv", reserve=3)
    world.manager.call_computed(workflow("x", "aa"), 0, world.now_s)
    loads = world.prefetch()
    assert sum(load.num_blocks for load in loads) == 1  # one free and three retired, less the reserve
    assert world.manager.tiers.free_blocks == 3


def test_what_nobody_is_expected_to_use_stays_on_the_host() -> None:
    world, _ = crowded("pbkv")
    world.manager.call_computed(workflow("x", "ab"), 0, world.now_s)  # b next: a is not needed
    assert world.prefetch() == []


def test_the_aggressive_one_displaces_active_entries_up_to_its_share() -> None:
    lengths = []
    for rho in (0.0, 0.5):
        world, _ = crowded("pbkv-aggressive", reserve=3, rho=rho)
        world.manager.call_computed(workflow("x", "aa"), 0, world.now_s)
        lengths.append(world.prefetch()[0].num_blocks)
    assert lengths == [1, 3]


@pytest.mark.parametrize(("rho", "num_going"), [(0.0, 0), (0.3, 1), (0.5, 2), (0.9, 3), (1.0, 4)])
def test_a_decision_of_the_aggressive_one_displaces_its_share_and_no_more(rho: float, num_going: int) -> None:
    """Four active entries of three blocks fill the GPU; each decision has the share anew."""
    world = World("pbkv-aggressive", 12, rho=rho)
    for name in "wxyz":
        world.serve(workflow(name, "aa"), 0)
    tiers, prefetch = world.manager.tiers, world.manager.policy.prefetch
    assert prefetch is not None
    for _ in range(2):
        may_go = prefetch.displaceable(tiers)
        going = [may_go(node) for node in tiers.tree.nodes()]
        assert going == [True] * num_going + [False] * (4 - num_going)


def test_what_is_retired_costs_the_aggressive_one_nothing() -> None:
    world = World("pbkv-aggressive", 12, rho=0.0)
    for name in "wxyz":
        world.serve(workflow(name, "a"), 0)
    tiers, prefetch = world.manager.tiers, world.manager.policy.prefetch
    assert prefetch is not None
    assert all(map(prefetch.displaceable(tiers), tiers.tree.nodes()))


def test_a_prefetch_in_flight_is_waited_for_and_counts_as_late() -> None:
    world, x = crowded("pbkv")
    world.manager.call_computed(workflow("x", "aa"), 0, world.now_s)
    world.prefetch()
    assert world.serve(x, 0) == 0
    assert world.manager.tiers.prefetched.late == 2


def test_a_cancelled_prefetch_gives_its_space_back_and_may_come_again() -> None:
    world, _ = crowded("pbkv")
    world.manager.call_computed(workflow("x", "aa"), 0, world.now_s)
    loads = world.prefetch()
    free = world.manager.tiers.free_blocks
    for load in reversed(loads):
        world.manager.cancel(load, world.now_s)
    world.manager.check_invariants()
    assert world.manager.tiers.free_blocks == free + 3
    assert world.manager.tiers.prefetched.cancelled == 3
    assert sum(load.num_blocks for load in world.prefetch()) == 3
