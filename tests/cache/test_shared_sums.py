"""What many workflows share is scored by sums that are kept: they must be those of the definition."""

from __future__ import annotations

import pytest

from pbkv.cache.activity import Activity
from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import make_policy
from pbkv.cache.policy import PolicyOptions
from pbkv.cache.tree import Node
from pbkv.serve.config import EngineConfig
from pbkv.serve.driver import Driver
from pbkv.serve.engine import Engine
from pbkv.serve.faults import Client, Faults
from pbkv.serve.request import Request
from pbkv.sim.profile import load_profile
from pbkv.sim.world import simulated_world
from pbkv.traces.generate import generate_workload

MANY = 8
CONCURRENCY = 24


def defined(activity: Activity, node: Node) -> tuple[float, float]:
    """Eq. 2 and eq. 1 of the paper, tag by tag."""
    found = [(activity._active[tag], agents) for tag, agents in (node.tags or {}).items()]
    score = sum(expectation.worth_of(agents) for expectation, agents in found)
    return score, sum(expectation.next_worth_of(agents) for expectation, agents in found)


@pytest.mark.parametrize("idle_timeout_s", [float("inf"), 20.0])
def test_sums_that_are_kept_are_those_of_the_definition(idle_timeout_s: float) -> None:
    world, table = simulated_world(load_profile("a6000-qwen3-14b")), PathTable(16)
    policy = make_policy("pbkv", options=PolicyOptions(idle_timeout_s=idle_timeout_s))
    activity = next(f for f in policy.followers if isinstance(f, Activity))
    manager = CacheManager(CacheConfig(4000, 4000, 16, prefetch_reserve_blocks=64), table, policy)
    engine = Engine(world, manager, EngineConfig(4096, 12))
    num_checked = 0

    def end_call(request: Request) -> None:
        nonlocal num_checked
        for node in manager.tree.nodes():
            if node.tags and len(node.tags) >= MANY:
                num_checked += 1
                score, value = defined(activity, node)
                assert activity.score(node) == pytest.approx(score, abs=1e-9)
                assert activity.value(node) == pytest.approx(value, abs=1e-9)

    driver = Driver(world.env, engine, table, 0.0, Client(Faults(), 0), end_call, lambda live: None)
    driver.closed_loop(((0, each) for each in generate_workload("hover", 60, seed=2)), CONCURRENCY)
    assert num_checked > 1000
