"""The replay's engine on a model's twin decides as the simulator does, and never uses a wrong token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig, WriteMode
from pbkv.cache.decisions import CacheEvent
from pbkv.cache.known import Known
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import POLICIES, make_policy
from pbkv.serve.config import EngineConfig
from pbkv.serve.driver import Driver
from pbkv.serve.engine import Engine
from pbkv.serve.faults import Client, Faults
from pbkv.serve.future import uses_by_workflow
from pbkv.serve.request import Request
from pbkv.serve.world import World
from pbkv.sim.profile import HardwareProfile, load_profile
from pbkv.sim.world import simulated_world
from pbkv.traces.schema import Workflow
from tests.replay.twins import TwinWorld, virtual_world
from tests.strategies import workflows

PROFILE = load_profile("a6000-qwen3-14b")
COMPOSED = ("lru+admission", "pbkv+admission", "lae+prefetch+status")
TOLERANCE = 1e-9  # both sum the same terms, in another order


def play(
    trace: Sequence[Workflow],
    cache: CacheConfig,
    engine_config: EngineConfig,
    concurrency: int,
    policy: str,
    profile: HardwareProfile,
    world: World,
    twin: TwinWorld | None,
) -> tuple[list[Request], list[CacheEvent]]:
    table = PathTable(cache.block_size)
    uses = uses_by_workflow(((0, workflow) for workflow in trace), table, unknown_gap_s=0.0)
    known = Known(uses, profile.miss_costs, cache.whole_nodes, cache.block_size)
    manager = CacheManager(cache, table, make_policy(policy, 1, known=known), world.pages)
    engine = Engine(world, manager, engine_config)
    ended: list[Request] = []

    def end_call(request: Request) -> None:
        ended.append(request)
        if twin is not None:
            twin.tables.check(manager)

    driver = Driver(world.env, engine, table, 0.0, Client(Faults(), 1), end_call, lambda live: None)
    driver.closed_loop(((0, workflow) for workflow in trace), concurrency)
    return ended, manager.tiers.events


def facts(request: Request) -> dict[str, Any]:
    found = request.admission
    return {
        "call": (request.workflow.workflow_id, request.call.call_index),
        "found": (found.gpu_hit_tokens, found.host_hit_tokens, found.loading_tokens),
        "missed": replace(request.misses, evicted_ago_s=None),
        "preempted": (request.num_preemptions, request.num_recomputed),
    }


def decisions(events: Sequence[CacheEvent], until_s: float) -> Counter[tuple[Any, ...]]:
    """Blocks by decision, up to the last call's end: what is being copied then the replay sees out.

    The replay writes a copy's line when it has ended, between others perhaps that the simulator finds
    next to each other and writes as one.
    """
    blocks = Counter[tuple[Any, ...]]()
    for e in events:
        if e.at_s > until_s + TOLERANCE:
            continue
        blocks[round(e.at_s, 9), e.kind, e.owner, e.by, e.reason] += e.num_blocks
    return blocks


@given(
    trace=workflows(),
    gpu_blocks=st.integers(17, 40),
    host_blocks=st.sampled_from([0, 8, 40]),
    mode=st.sampled_from(list(WriteMode)),
    policy=st.sampled_from((*POLICIES, *COMPOSED)),
    sequences=st.sampled_from([1, 2, 8]),
    budget=st.sampled_from([9, 16, 64]),
    concurrency=st.sampled_from([1, 2, 5]),
    link_bytes_per_s=st.sampled_from([1e6, 1e7, 1e8, 1e10]),
    early_blocks=st.sampled_from([0, 6]),
    batching=st.sampled_from(["mixed", "prefill-first"]),
)
@settings(max_examples=200, deadline=None, derandomize=True)  # CI must not hang on rounding at equal instants
def test_replay_and_simulator_decide_alike(
    trace: list[Workflow],
    gpu_blocks: int,
    host_blocks: int,
    mode: WriteMode,
    policy: str,
    sequences: int,
    budget: int,
    concurrency: int,
    link_bytes_per_s: float,
    early_blocks: int,
    batching: Any,
) -> None:
    cache = CacheConfig(
        gpu_blocks,
        host_blocks,
        4,
        mode,
        min_load_tokens=2,
        watermark_blocks=1,
        early_blocks=early_blocks,
        prefetch_reserve_blocks=3,
    )
    engine = EngineConfig(budget, sequences, "fcfs", batching)
    profile = PROFILE.with_link(link_bytes_per_s, link_bytes_per_s)
    setting = trace, cache, engine, concurrency, policy, profile
    simulated, log = play(*setting, simulated_world(profile), None)
    twin = virtual_world(cache, profile)
    replayed, replay_log = play(*setting, twin.world, twin)
    assert [facts(request) for request in replayed] == [facts(request) for request in simulated]
    for name in ("submitted_at_s", "admitted_at_s", "first_token_at_s", "ended_at_s"):
        expected = [getattr(request, name) for request in simulated]
        assert [getattr(request, name) for request in replayed] == pytest.approx(
            expected, rel=TOLERANCE, abs=1e-12
        )
    last_s = max(request.ended_at_s for request in simulated)
    assert decisions(replay_log, last_s) == decisions(log, last_s)
