"""Admission by capacity: who is paused, who is resumed, and that asking changes nothing."""

from __future__ import annotations

import pytest

from pbkv.cache.admission import CapacityAdmission
from pbkv.cache.kvflow import PassOverLoading
from pbkv.cache.named import PARTS, make_policy
from pbkv.cache.policy import PolicyOptions
from pbkv.traces.errors import ConfigError
from pbkv.traces.schema import Workflow
from tests.cache.world import World, flow


def make(gpu_blocks: int, limit_s: float = 60.0) -> tuple[World, CapacityAdmission]:
    world = World("lru+admission", gpu_blocks, options=PolicyOptions(pause_limit_s=limit_s))
    rule = world.manager.policy.admission
    assert isinstance(rule, CapacityAdmission)
    return world, rule


def admits(world: World, rule: CapacityAdmission, workflow: Workflow, position: int = 0) -> bool:
    return rule.admits(world.asking(workflow, position), world.manager, world.now_s)


def test_a_new_workflow_waits_until_it_fits() -> None:
    world, rule = make(6)
    first, second = flow("x", "a", own=16), flow("y", "a", own=12)
    world.submit(first)
    world.submit(second)
    assert (admits(world, rule, first), admits(world, rule, second)) == (True, False)
    world.finish(first, 0, world.start(first), is_last=True)
    assert admits(world, rule, second)


def test_what_workflows_share_is_counted_once() -> None:
    """Two blocks each, both of the fixed prompt: six workflows on two blocks and one more each."""
    world, rule = make(8)
    flows = [flow(name, "aa", fixed=8, own=4) for name in "uvwxyz"]
    for workflow in flows:
        world.serve(workflow)
        assert admits(world, rule, workflow, 1)
    assert rule.load == 2 + 6


def test_the_smallest_that_acts_is_paused_first() -> None:
    world, rule = make(10)
    small, large, third = flow("x", "aa", own=8), flow("y", "aa", own=16), flow("z", "aa", own=8)
    world.serve(small)
    world.serve(large)
    world.serve(third)
    assert rule.load == 8
    grows = flow("y", "aa", own=16)
    longer = grows.calls[1]._replace(segment_ids=(7, 8), segment_tokens=(16, 12))
    world.submit(Workflow("y", "app", None, [grows.calls[0], longer]), 1)  # three blocks more: 11
    for workflow in (small, third):
        world.submit(workflow, 1)
    assert (admits(world, rule, small, 1), admits(world, rule, third, 1)) == (False, True)


def test_where_all_reason_the_smallest_is_paused_at_the_end_of_its_call() -> None:
    world, rule = make(6)
    small, large = flow("x", "aa", own=8), flow("y", "aa", own=12)
    running = []
    for workflow in (small, large):
        world.submit(workflow)
        running.append(world.start(workflow))
    more = large.calls[1]._replace(call_index=1, parent_indices=(), segment_ids=(9,), segment_tokens=(24,))
    world.submit(Workflow("y", "app", None, [large.calls[0], more]), 1)
    assert rule.load > 6
    world.finish(small, 0, running[0], is_last=False)
    world.submit(small, 1)
    assert not admits(world, rule, small, 1)


def test_nobody_waits_longer_than_the_limit() -> None:
    world, rule = make(6, limit_s=30.0)
    first, second = flow("x", "a", own=16), flow("y", "a", own=12)
    world.submit(first)
    world.start(first)
    world.now_s = 5.0
    world.submit(second)
    assert rule.next_change_s() == 35.0
    world.now_s = 34.9
    assert not admits(world, rule, second)
    world.now_s = 35.0
    assert admits(world, rule, second)
    world.submit(flow("z", "a", own=4))  # an event: y is resumed for good
    assert admits(world, rule, second)
    assert rule.next_change_s() == 65.0  # z does not fit now


def test_asking_changes_nothing() -> None:
    world, rule = make(6)
    first, second = flow("x", "a", own=16), flow("y", "a", own=12)
    world.submit(first)
    world.submit(second)
    answers = {admits(world, rule, second) for _ in range(5)}
    assert answers == {False}
    assert rule.load == 4


def test_who_runs_for_want_of_others_is_not_paused() -> None:
    world, rule = make(2)
    large = flow("x", "a", own=8)
    world.submit(flow("y", "a", own=8))
    world.submit(large)
    assert not admits(world, rule, large)
    world.manager.call_computed(large, 0, world.now_s)
    assert admits(world, rule, large)


def test_parts_compose_with_any_policy() -> None:
    policy = make_policy("kvflow+admission")
    assert policy.prefetch is not None
    rule = policy.admission
    assert rule is not None
    assert not isinstance(rule, CapacityAdmission | PassOverLoading)  # both
    assert rule.next_change_s() == float("inf")
    he = make_policy("pbkv-he+admission+prefetch")
    assert isinstance(he.admission, CapacityAdmission)
    assert he.prefetch is not None


@pytest.mark.parametrize("base", ["belady", "belady-cost", "pbkv-he-oracle", "pbkv-oracle"])
@pytest.mark.parametrize("part", PARTS)
def test_bounds_take_no_parts(base: str, part: str) -> None:
    with pytest.raises(ConfigError, match=rf"policy: got {base}\+{part}, expected {base} alone"):
        make_policy(f"{base}+{part}")
