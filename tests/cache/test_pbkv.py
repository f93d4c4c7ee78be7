"""PBKV's eviction: stories of who goes first, and the score against its formula (paper, eq. 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import make_policy
from pbkv.cache.pbkv import DiscountedReuse
from pbkv.cache.policy import PolicyOptions
from pbkv.traces.errors import ConfigError
from pbkv.traces.schema import Call, Workflow

B = 4


def workflow(name: str, agents: str) -> Workflow:
    """One call an agent; agent i's prompt is private to the workflow and eight tokens long."""
    calls = [
        Call(i, agent, (), None, (ord(agent) * 100 + ord(name),), (8,), 1) for i, agent in enumerate(agents)
    ]
    return Workflow(name, "app", None, calls)


class World:
    """A cache of ``gpu_blocks`` under one policy, which serves calls one after the other."""

    def __init__(self, policy: str, gpu_blocks: int) -> None:
        chosen = make_policy(policy, options=PolicyOptions("oracle"))
        self.manager = CacheManager(CacheConfig(gpu_blocks, 0, B), PathTable(B), chosen)
        self.now_s = 0.0

    def serve(self, flow: Workflow, position: int) -> None:
        self.now_s += 1.0
        call = flow.calls[position]
        path = self.manager.table.path(call.segment_ids, call.segment_tokens)
        admission = self.manager.admit(path, flow.workflow_id, self.now_s, agent=call.agent)
        assert admission is not None
        self.manager.commit(admission.lease, self.now_s)
        self.manager.call_computed(flow, position, self.now_s)
        self.manager.finish(admission.lease, None, 8, self.now_s)
        if position == len(flow.calls) - 1:
            self.manager.workflow_ended(flow, self.now_s)
        self.manager.check_invariants()

    def holds(self, flow: Workflow, position: int) -> bool:
        call = flow.calls[position]
        path = self.manager.table.path((*call.segment_ids, 1), (8, 1))
        return self.manager.cached_blocks(path) == 2


@pytest.mark.parametrize("policy", ["lae", "pbkv-he"])
def test_what_an_ended_workflow_left_goes_before_what_an_active_one_will_not_need(policy: str) -> None:
    world, active, ended, third = (
        World(policy, 4),
        workflow("x", "abc"),
        workflow("y", "a"),
        workflow("z", "a"),
    )
    world.serve(active, 0)
    world.serve(ended, 0)  # used last, and retired
    world.serve(third, 0)
    assert (world.holds(active, 0), world.holds(ended, 0)) == (True, False)


@pytest.mark.parametrize("policy", ["lae", "pbkv-he"])
def test_of_what_is_retired_the_least_shared_goes_first(policy: str) -> None:
    """x's prompt has been used by two workflows, y's, used later, by one alone: LRU would evict x's."""
    world, x, alone = World(policy, 4), workflow("x", "a"), workflow("y", "a")
    world.serve(x, 0)
    world.serve(Workflow("as x", "app", None, x.calls), 0)
    world.serve(alone, 0)
    world.serve(workflow("z", "a"), 0)
    assert (world.holds(x, 0), world.holds(alone, 0)) == (True, False)


def test_lae_is_lru_among_the_active() -> None:
    world, flows = World("lae", 4), [workflow(name, "aba") for name in "xyz"]
    for flow in flows:
        world.serve(flow, 0)
    assert [world.holds(flow, 0) for flow in flows] == [False, True, True]


def test_he_keeps_what_is_needed_sooner() -> None:
    """x comes back to its agent next, y only in three calls; LRU and LAE would evict x's."""
    world, soon, late, third = (
        World("pbkv-he", 4),
        workflow("x", "aab"),
        workflow("y", "abca"),
        workflow("z", "ab"),
    )
    world.serve(soon, 0)
    world.serve(late, 0)
    world.serve(third, 0)
    assert (world.holds(soon, 0), world.holds(late, 0)) == (True, False)


def test_a_new_forecast_reorders_what_is_waiting_to_go() -> None:
    """After its second call x needs its first prompt no more: it goes before the older one of y."""
    world, x, y = World("pbkv-he", 6), workflow("x", "abc"), workflow("y", "aba")
    world.serve(y, 0)
    world.serve(x, 0)
    world.serve(x, 1)
    world.serve(workflow("z", "ab"), 0)
    assert (world.holds(y, 0), world.holds(x, 0)) == (True, False)


@given(
    rows=st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=1, max_size=4),
    gamma=st.floats(0, 1),
)
def test_the_weights_are_those_of_the_paper(rows: list[list[float]], gamma: float) -> None:
    forecast = np.array([np.array(row) / sum(row) for row in rows])
    expected, alive = np.zeros(3), 1.0
    for k, row in enumerate(forecast):
        expected += gamma**k * alive * row[:-1]
        alive *= 1 - row[-1]
    np.testing.assert_allclose(DiscountedReuse(gamma)(forecast), expected)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ConfigError):
        make_policy("pbkv-he", options=PolicyOptions("tea leaves"))
    bad: list[dict[str, Any]] = [{"gamma": 2.0}, {"gamma": float("nan")}, {"num_steps": 0}, {"noise": -0.1}]
    for options in bad:
        with pytest.raises(ConfigError):
            PolicyOptions(**options)
