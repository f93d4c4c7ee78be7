"""A run of fused decode iterations against the token-by-token reference: the same story, the same times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig, WriteMode
from pbkv.cache.known import Known
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import POLICIES, make_policy
from pbkv.cache.policy import PolicyOptions
from pbkv.serve.config import EngineConfig
from pbkv.serve.driver import Driver
from pbkv.serve.engine import Engine
from pbkv.serve.faults import Client, Faults
from pbkv.serve.future import uses_by_workflow
from pbkv.serve.request import Request
from pbkv.sim.profile import load_profile
from pbkv.sim.world import simulated_world
from pbkv.traces.schema import Workflow
from tests.strategies import workflows

PROFILE = load_profile("a6000-qwen3-14b")
LINKS_BYTES_PER_S = [1e5, 1e6, 1e7, 1e8, 1e10]  # a copy takes from many iterations to a fraction of one
TIMES = ("submitted_at_s", "admitted_at_s", "ready_at_s", "first_token_at_s", "ended_at_s")
FAULTS = {False: Faults(), True: Faults(0.3, 0.01, 0.2, 0.2, no_tool_times=True)}
OPTIONS = {
    False: PolicyOptions(inherit="learned"),
    True: PolicyOptions(host_order="score", idle_timeout_s=0.05, forecast_delay_s=0.003),
}
COMPOSED = ("ttl:0.1", "lru+admission", "pbkv+admission", "kvflow+admission", "lae+prefetch+status")
TOLERANCE = 1e-9  # of the issue: the closed form sums the same terms in another order


def play(
    trace: Sequence[Workflow],
    cache: CacheConfig,
    engine_config: EngineConfig,
    concurrency: int | None,
    policy: str,
    link_bytes_per_s: float,
    faulty: bool,
) -> tuple[list[Request], Engine]:
    table, profile = PathTable(cache.block_size), PROFILE.with_link(link_bytes_per_s, link_bytes_per_s)
    world = simulated_world(profile)
    uses = uses_by_workflow(((0, workflow) for workflow in trace), table, unknown_gap_s=0.0)
    known = Known(uses, profile.miss_costs, cache.whole_nodes, cache.block_size)
    manager = CacheManager(cache, table, make_policy(policy, 1, OPTIONS[faulty], known))
    engine = Engine(world, manager, engine_config)
    ended: list[Request] = []

    def end_call(request: Request) -> None:
        ended.append(request)
        manager.check_invariants()

    driver = Driver(world.env, engine, table, 0.0, Client(FAULTS[faulty], 1), end_call, lambda live: None)
    stream = ((0, workflow) for workflow in trace)
    if concurrency is None:
        driver.open_loop(stream)
    else:
        driver.closed_loop(stream, concurrency)
    return ended, engine


def facts(request: Request) -> dict[str, Any]:
    found = request.admission
    return {
        "call": (request.workflow.workflow_id, request.call.call_index),
        "found": (found.gpu_hit_tokens, found.host_hit_tokens, found.loading_tokens),
        "missed": replace(request.misses, evicted_ago_s=None),
        "preempted": (request.num_preemptions, request.num_recomputed),
    }


@given(
    trace=workflows(),
    gpu_blocks=st.integers(17, 40),
    host_blocks=st.sampled_from([0, 8, 40]),
    mode=st.sampled_from(list(WriteMode)),
    policy=st.sampled_from((*POLICIES, *COMPOSED)),
    whole_nodes=st.booleans(),
    order=st.sampled_from(["fcfs", "lpm"]),
    sequences=st.sampled_from([1, 2, 8]),
    budget=st.sampled_from([9, 16, 64]),
    concurrency=st.sampled_from([None, 1, 2, 5]),
    link_bytes_per_s=st.sampled_from(LINKS_BYTES_PER_S),
    reserve=st.sampled_from([0, 3, 12]),
    faulty=st.booleans(),
    early_blocks=st.sampled_from([0, 6]),
    batching=st.sampled_from(["mixed", "prefill-first"]),
)
@settings(max_examples=500, deadline=None)
def test_fused_and_token_by_token_tell_the_same_story(
    trace: list[Workflow],
    gpu_blocks: int,
    host_blocks: int,
    mode: WriteMode,
    policy: str,
    whole_nodes: bool,
    order: Any,
    sequences: int,
    budget: int,
    concurrency: int | None,
    link_bytes_per_s: float,
    reserve: int,
    faulty: bool,
    early_blocks: int,
    batching: Any,
) -> None:
    cache = CacheConfig(
        gpu_blocks,
        host_blocks,
        4,
        mode,
        whole_nodes,
        min_load_tokens=2,
        watermark_blocks=1,
        early_blocks=early_blocks,
        prefetch_reserve_blocks=reserve,
    )
    stories = [
        play(
            trace,
            cache,
            EngineConfig(budget, sequences, order, batching, fuse),
            concurrency,
            policy,
            link_bytes_per_s,
            faulty,
        )
        for fuse in (True, False)
    ]
    (fused, fused_engine), (reference, engine) = stories
    assert [facts(request) for request in fused] == [facts(request) for request in reference]
    for name in TIMES:
        expected = [getattr(request, name) for request in reference]
        assert [getattr(request, name) for request in fused] == pytest.approx(
            expected, rel=TOLERANCE, abs=1e-15
        )
    ago_s = [request.misses.evicted_ago_s or 0.0 for request in reference]
    assert [request.misses.evicted_ago_s or 0.0 for request in fused] == pytest.approx(ago_s, abs=1e-9)
    assert fused_engine.num_iterations == engine.num_iterations
    assert fused_engine.manager.tiers.prefetched == engine.manager.tiers.prefetched
    assert fused_engine.copies.busy_s == pytest.approx(engine.copies.busy_s, rel=TOLERANCE)
    assert len(fused) == sum(len(workflow.calls) for workflow in trace)
