"""KVFlow: fixed prompts by steps to execution, what lies behind them first, and its prefetch."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbkv.analysis import load
from pbkv.analysis.labels import distinct
from pbkv.cache.kvflow import PassOverLoading, StepsToExecution
from pbkv.cache.prefetch import Situation
from pbkv.sim import Settings, load_profile, simulate
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Workflow
from pbkv.traces.writer import write_trace
from tests.cache.world import World, flow

BUSY = Situation(is_pure_decode=True, step_blocks=1, num_in_flight=0)


def learnt(policy: str, gpu_blocks: int, host_blocks: int = 0, agents: str = "abcd") -> World:
    """A world that has seen two workflows of ``agents``, two fixed blocks each and one of their own."""
    world = World(policy, gpu_blocks, host_blocks)
    for name in ("x", "y"):
        world.play(flow(name, agents, fixed=8, own=4))
    return world


@pytest.mark.parametrize("policy", ["kvflow", "kvflow-evict"])
def test_suffixes_go_before_any_fixed_prompt(policy: str) -> None:
    world = learnt(policy, 12)
    late = flow("z", "abcd", fixed=8, own=4)
    world.serve(late)
    world.serve(flow("o", "o", fixed=0, own=16))  # four blocks: all there is of suffixes
    assert [world.blocks_of(late, position) for position in range(4)] == [2, 2, 2, 2]


def test_lru_would_have_kept_the_suffix() -> None:
    world = learnt("lru", 12)
    late = flow("z", "abcd", fixed=8, own=4)
    world.serve(late)
    world.serve(flow("o", "o", fixed=0, own=16))
    assert world.blocks_of(late, 0) == 3


def test_of_fixed_prompts_the_farthest_goes_first() -> None:
    """z has begun with a: b is next, then c, then d; two workflows have shown the way."""
    world = learnt("kvflow-evict", 12)
    late = flow("z", "abcd", fixed=8, own=4)
    world.now_s += 1
    world.submit(late)
    running = world.start(late)
    world.start(flow("o", "o", fixed=0, own=24))
    assert [world.blocks_of(late, position) for position in range(4)] == [3, 2, 0, 0]
    assert running.lease.node.refs


def test_what_no_workflow_expects_is_infinitely_far() -> None:
    world = learnt("kvflow-evict", 12)
    late = flow("z", "abcd", fixed=8, own=4)
    for position in range(3):
        world.serve(late, position)
    world.serve(flow("o", "o", fixed=0, own=20))
    assert world.blocks_of(late, 3) == 2  # d is next
    assert sum(world.blocks_of(late, position) for position in range(3)) < 6


def test_a_prompt_that_begins_differently_ends_the_fixed_prompt_there() -> None:
    world = World("kvflow-evict", 40)
    for name in ("x", "y"):
        world.play(flow(name, "ab", fixed=16, own=4))
    stranger = flow("z", "ab", fixed=0, own=20)
    world.play(stranger)
    world.serve(flow("x2", "ab", fixed=16, own=4))
    world.serve(flow("o", "o", fixed=0, own=39 * 4))
    assert world.blocks_of(flow("x2", "ab", fixed=16, own=4), 1) == 0  # not held back any more


def demoted(policy: str) -> tuple[World, Workflow]:
    """b's fixed prompt has gone to the host, z runs a, and there is room again."""
    world = learnt(policy, 12, 60, agents="ab")
    big = flow("o", "o", fixed=0, own=48)
    world.play(big)
    late = flow("z", "ab", fixed=8, own=4)
    assert (world.blocks_of(late, 1), world.blocks_of(late, 1, on_gpu=False)) == (0, 2)
    world.serve(late, 0)
    return world, late


@pytest.mark.parametrize("policy", ["kvflow", "kvflow-prefetch", "kvflow-no-status"])
def test_the_next_agents_fixed_prompt_is_copied_up(policy: str) -> None:
    world, late = demoted(policy)
    loads = world.manager.prefetch(BUSY, world.now_s)
    assert [load.num_blocks for load in loads] == [2]
    assert world.blocks_of(late, 1) == 2
    assert all(node.start == 0 for load in loads for node in load.nodes)


def test_at_most_four_copies_at_a_time() -> None:
    world, _ = demoted("kvflow")
    assert world.manager.prefetch(Situation(True, 1, num_in_flight=4), world.now_s) == []
    assert len(world.manager.prefetch(Situation(True, 1, num_in_flight=3), world.now_s)) == 1


def test_eviction_alone_copies_nothing_up() -> None:
    world, _ = demoted("kvflow-evict")
    assert world.manager.prefetch(BUSY, world.now_s) == []


def test_whose_prefix_is_on_its_way_is_passed_over_this_round() -> None:
    world, late = demoted("kvflow")
    rule = world.manager.policy.admission
    assert isinstance(rule, PassOverLoading)
    (load,) = world.manager.prefetch(BUSY, world.now_s)
    asks, other = world.asking(late, 1), world.asking(flow("o", "o", own=48), 0)
    assert [rule.admits(request, world.manager, world.now_s) for request in (asks, other)] == [False, True]
    world.manager.end_load(load)
    assert rule.admits(asks, world.manager, world.now_s)


def test_the_order_can_be_switched_off() -> None:
    assert World("kvflow-no-status", 4).manager.policy.admission is None


def test_with_whole_contexts_what_is_behind_the_fixed_prompt_is_as_near_as_its_agent() -> None:
    """z comes back to a in two steps, to b never: b's context goes, used last as it was."""
    world = World("kvflow-context", 12)
    world.play(flow("x", "abca", own=8))
    late = flow("z", "abca", own=8)
    world.serve(late, 0)
    world.serve(late, 1)
    world.serve(flow("o", "o", own=36))
    assert [world.blocks_of(late, position) for position in (0, 1)] == [2, 0]


@pytest.mark.parametrize("workload", ["hover", "swe", "finance"])
def test_what_prompts_share_is_the_system_prompt_and_tools(workload: str) -> None:
    """The online rule against the kinds of segments, on generated traces."""
    world = World("kvflow-evict", 10**6)
    expected: dict[str, int] = {}
    callers: dict[str, set[str]] = {}
    for flow_ in generate_workload(workload, 12, 5):
        world.play(flow_)
        for made in flow_.calls:
            assert made.segment_kinds is not None
            leading = 0
            for kind, num_tokens in zip(made.segment_kinds, made.segment_tokens, strict=True):
                if kind not in ("system", "tools"):
                    break
                leading += num_tokens
            expected[made.agent] = leading // 4
            callers.setdefault(made.agent, set()).add(flow_.workflow_id)
    followed = world.manager.policy.followers[0]
    assert isinstance(followed, StepsToExecution)
    assert followed.fixed_blocks() == {
        name: blocks for name, blocks in expected.items() if len(callers[name]) > 1
    }


@pytest.mark.parametrize(("workload", "label"), [("hover", "kvflow (likeliest path)"), ("finance", "kvflow")])
def test_tables_say_where_there_is_no_static_graph(workload: str, label: str, tmp_path: Path) -> None:
    write_trace(tmp_path / "t.parquet", generate_workload(workload, 8, 2), workload_metadata(workload, 8, 2))
    settings = Settings(load_profile("h100-llama-3.1-8b"), policies=("kvflow",), concurrencies=(4,))
    simulate([Trace(tmp_path / "t.parquet")], settings, tmp_path / "run")
    assert distinct([cell.setting for cell in load(tmp_path / "run").cells]) == [label]
