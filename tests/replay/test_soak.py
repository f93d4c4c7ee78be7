"""Many calls through a pool that thrashes, with real copies on threads: no page lost, no wrong token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import simpy

from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig, WriteMode
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import make_policy
from pbkv.replay.copies import RealCopies
from pbkv.replay.pace import Pace
from pbkv.replay.page_tables import PageTables
from pbkv.replay.transfers import Transfers
from pbkv.replay.worker import ModelWorker
from pbkv.serve.config import EngineConfig
from pbkv.serve.driver import Driver
from pbkv.serve.engine import Engine
from pbkv.serve.faults import Client, Faults
from pbkv.serve.request import Request
from pbkv.serve.world import World
from pbkv.traces.generate import generate_workload
from pbkv.traces.schema import Workflow
from pbkv.traces.sources import open_trace
from tests.replay.twins import VOCABULARY, RememberingRunner, fingerprint_pool

CHECK_EVERY = 50


@contextmanager
def threaded_world(cache: CacheConfig) -> Iterator[tuple[World, PageTables, RememberingRunner]]:
    env, pace = simpy.Environment(), Pace()
    tables = PageTables(cache.gpu_blocks, cache.host_blocks)
    gpu = fingerprint_pool(cache.gpu_blocks, cache.block_size)
    transfers = Transfers(gpu, fingerprint_pool(cache.host_blocks, cache.block_size))
    runner = RememberingRunner(gpu)
    worker = ModelWorker(runner, tables, pace, cache.block_size, VOCABULARY, lambda iteration: None)
    block_bytes = gpu.shape.num_bytes
    try:
        yield (
            World(
                env,
                worker,
                lambda tiers, end: RealCopies(env, tiers, end, tables, transfers, pace, block_bytes),
                tables,
            ),
            tables,
            runner,
        )
    finally:
        transfers.close()


def soak(workflows: Sequence[Workflow], cache: CacheConfig, policy: str, concurrency: int) -> int:
    """Play ``workflows``; the tokens that were looked at. All pages must be free or the tree's in the end."""
    table = PathTable(cache.block_size)
    with threaded_world(cache) as (world, tables, runner):
        manager = CacheManager(cache, table, make_policy(policy), world.pages)
        engine = Engine(world, manager, EngineConfig(4096, 32))
        num_ended = 0

        def end_call(request: Request) -> None:
            nonlocal num_ended
            num_ended += 1
            if num_ended % CHECK_EVERY == 0:
                tables.check(manager)

        driver = Driver(world.env, engine, table, 0.0, Client(Faults(), 0), end_call, lambda live: None)
        driver.closed_loop(iter([(0, workflow) for workflow in workflows]), concurrency)
        tables.check(manager)
        assert num_ended == sum(len(workflow.calls) for workflow in workflows)
        assert manager.private_blocks == 0
        assert any(event.kind in ("evict", "demote") for event in manager.tiers.events)
        return runner.num_checked


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.EXCLUSIVE])
def test_a_generated_workload_in_a_small_pool(mode: WriteMode) -> None:
    workflows = list(generate_workload("hover", 8, seed=3))
    largest = max(call.num_held_tokens for workflow in workflows for call in workflow.calls)
    cache = CacheConfig(3 * (largest // 16 + 1), 2 * (largest // 16 + 1), 16, mode, watermark_blocks=1)
    assert soak(workflows, cache, "pbkv", 6) > 0


@pytest.mark.parametrize(("policy", "most_calls"), [("lru", 1000), ("pbkv", 4000)])
def test_five_thousand_calls_of_a_real_trace(policy: str, most_calls: int, shared_data: Path) -> None:
    with open_trace(shared_data / "tau2_bench.jsonl.gz") as trace:
        taken, num_calls = [], 0
        for workflow in trace.workflows():
            if num_calls >= most_calls:
                break
            taken.append(workflow)
            num_calls += len(workflow.calls)
    largest = max(call.num_held_tokens for workflow in taken for call in workflow.calls)
    cache = CacheConfig(4 * (largest // 16 + 1), 4 * (largest // 16 + 1), 16, watermark_blocks=1)
    assert soak(taken, cache, policy, 12) > 0
