"""The engine and its driver: each story a few calls, its end a few times or counts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import make_policy
from pbkv.serve.config import EngineConfig
from pbkv.serve.driver import Driver
from pbkv.serve.engine import Engine
from pbkv.serve.faults import Client, Faults
from pbkv.serve.request import Request
from pbkv.sim.copies import SimulatedCopies
from pbkv.sim.cost_model import CostModel, LinkModel
from pbkv.sim.profile import HardwareProfile
from pbkv.sim.world import simulated_world
from pbkv.traces.errors import ConfigError
from pbkv.traces.schema import Call, Workflow

B = 4  # tokens a block


def profile(link_bytes_per_s: float = 1e12) -> HardwareProfile:
    """An iteration takes 1 s and 1 ms a token, whatever the batch holds; a token has one byte."""
    cost = CostModel(1.0, ((0, 0.0), (1000, 1.0)), 0.0, 0.0, 0.0, 0.0)
    link = LinkModel(0.0, *[link_bytes_per_s] * 4)
    return HardwareProfile("test", cost, 1, 1000, link)


def call(
    index: int, prompt: dict[int, int], output: int, parents: tuple[int, ...] = (), gap_s: float | None = None
) -> Call:
    return Call(index, "a", parents, gap_s, tuple(prompt), tuple(prompt.values()), output)


def workflow(name: str, *calls: Call, arrival_s: float | None = None) -> Workflow:
    return Workflow(name, "app", arrival_s, calls)


class World:
    """An engine with its driver; ``ended`` holds the requests in the order of their ends."""

    def __init__(
        self,
        gpu_blocks: int = 100,
        host_blocks: int = 0,
        engine: EngineConfig | None = None,
        per_s: float = 1e12,
    ) -> None:
        world, table = simulated_world(profile(per_s)), PathTable(B)
        config = CacheConfig(gpu_blocks, host_blocks, B, min_load_tokens=0)
        self.manager = CacheManager(config, table, make_policy("lru", 0))
        self.engine = Engine(world, self.manager, engine or EngineConfig(64, 8))
        self.ended: list[Request] = []
        self.most_live = 0
        self.driver = Driver(
            world.env, self.engine, table, 0.0, Client(Faults(), 0), self._end, lambda live: None
        )

    def closed(self, workflows: Sequence[Workflow], concurrency: int) -> dict[tuple[str, int], Request]:
        self.driver.closed_loop(iter([(0, each) for each in workflows]), concurrency)
        return self.by_call()

    def open(self, workflows: Sequence[Workflow]) -> dict[tuple[str, int], Request]:
        self.driver.open_loop(iter([(0, each) for each in workflows]))
        return self.by_call()

    def by_call(self) -> dict[tuple[str, int], Request]:
        return {(request.workflow.workflow_id, request.call.call_index): request for request in self.ended}

    def _end(self, request: Request) -> None:
        self.most_live = max(self.most_live, len(self.driver.live))
        self.ended.append(request)
        self.manager.check_invariants()


def test_a_call_alone_takes_its_prefill_and_its_decodes() -> None:
    request = World().closed([workflow("w", call(0, {1: 20}, 3))], 1)["w", 0]
    assert request.first_token_at_s == pytest.approx(1.020)
    assert request.ended_at_s == pytest.approx(1.020 + 2 * 1.001)


def test_a_long_prompt_is_computed_in_chunks() -> None:
    request = World().closed([workflow("w", call(0, {1: 150}, 1))], 1)["w", 0]
    assert request.ended_at_s == pytest.approx(3 + 0.150)  # chunks of 64, 64 and 22 tokens


def test_a_call_waits_for_all_its_parents_and_its_tool() -> None:
    fan = workflow(
        "w",
        call(0, {1: 8}, 1),
        call(1, {1: 8, 2: 4}, 1, (0,)),
        call(2, {1: 8, 3: 60}, 4, (0,), gap_s=5.0),
        call(3, {4: 8}, 1, (1, 2), gap_s=2.0),
    )
    requests = World().closed([fan], 1)
    assert requests["w", 1].submitted_at_s == requests["w", 0].ended_at_s
    assert requests["w", 2].submitted_at_s == requests["w", 0].ended_at_s + 5.0
    assert requests["w", 3].submitted_at_s == requests["w", 2].ended_at_s + 2.0


def test_the_closed_loop_never_has_more_live_workflows_than_it_may() -> None:
    world = World()
    trace = [
        workflow(f"w{i}", call(0, {10 * i + 1: 8}, 2), call(1, {10 * i + 1: 12}, 2, (0,))) for i in range(9)
    ]
    world.closed(trace, 3)
    assert (len(world.ended), world.most_live) == (18, 3)


def test_the_open_loop_releases_at_arrivals() -> None:
    trace = [
        workflow("a", call(0, {1: 8}, 1), arrival_s=0.5),
        workflow("b", call(0, {2: 8}, 1), arrival_s=7.0),
    ]
    requests = World().open(trace)
    assert [requests[name, 0].submitted_at_s for name in "ab"] == [0.5, 7.0]


def test_a_later_call_finds_what_an_earlier_one_left() -> None:
    chain = workflow("w", call(0, {1: 16}, 1), call(1, {1: 16, 2: 8}, 1, (0,)))
    later = World().closed([chain], 1)["w", 1]
    assert (later.admission.gpu_hit_tokens, later.misses.cold_tokens) == (16, 8)
    assert later.ended_at_s - later.submitted_at_s == pytest.approx(1.008)


def test_a_prefix_on_the_host_is_loaded_while_others_run() -> None:
    world = World(gpu_blocks=8, host_blocks=20, per_s=8.0)
    chain = workflow(
        "w", call(0, {1: 16}, 1), call(1, {2: 32}, 1, (0,), 9.0), call(2, {1: 16, 3: 4}, 1, (1,), 9.0)
    )
    last = world.closed([chain], 1)["w", 2]
    assert last.admission.host_hit_tokens == 16
    assert last.ready_at_s - last.admitted_at_s == pytest.approx(2.0)  # 16 bytes at 8 a second
    assert last.ended_at_s - last.ready_at_s == pytest.approx(1.004)


def test_the_latest_is_preempted_when_decoding_finds_no_block() -> None:
    world = World(gpu_blocks=6)
    trace = [workflow("a", call(0, {1: 8}, 9)), workflow("b", call(0, {2: 8}, 9))]
    requests = world.closed(trace, 2)
    assert [requests[name, 0].num_preemptions for name in "ab"] == [0, 1]
    assert requests["b", 0].num_recomputed > 0
    assert requests["b", 0].ended_at_s > requests["a", 0].ended_at_s
    assert requests["b", 0].call.num_output_tokens == requests["b", 0].num_generated == 9


def test_decoding_waits_for_a_load_that_holds_all_other_blocks() -> None:
    """The only running request needs a block while the rest of the pool belongs to one that is loading."""
    world = World(gpu_blocks=8, host_blocks=20, per_s=0.5)
    trace = [
        workflow(
            "a", call(0, {1: 16}, 1), call(1, {2: 28}, 1, (0,), 9.0), call(2, {1: 16, 3: 1}, 1, (1,), 9.0)
        ),
        workflow("b", call(0, {4: 4}, 20, gap_s=18.0)),
    ]
    requests = world.closed(trace, 2)
    assert len(requests) == 4
    assert requests["a", 2].admission.host_hit_tokens == 16


def test_an_empty_answer_still_holds_its_prompt() -> None:
    requests = World(gpu_blocks=2).closed([workflow("w", call(0, {1: 8}, 0), call(1, {1: 8}, 1, (0,)))], 1)
    assert [requests["w", index].num_generated for index in (0, 1)] == [1, 1]


def test_two_directions_slow_each_other_down() -> None:
    world = World(gpu_blocks=8, host_blocks=20)
    copies = world.engine.copies
    assert isinstance(copies, SimulatedCopies)
    h2d, d2h = copies.h2d, copies.d2h
    assert h2d.other is d2h
    assert d2h.other is h2d


def test_longest_prefix_match_turns_into_first_come_above_128_waiting() -> None:
    for num_waiting, first in ((128, "warm"), (129, "cold0")):
        world = World(gpu_blocks=2000, engine=EngineConfig(64, 1, "lpm"))
        trace = [workflow("seed", call(0, {1: 16}, 9), arrival_s=0.0)]
        cold = [workflow(f"cold{i}", call(0, {2 + i: 20}, 1), arrival_s=0.5) for i in range(num_waiting - 1)]
        warm = workflow("warm", call(0, {1: 16, 999: 4}, 1), arrival_s=0.6)
        world.open([*trace, *cold, warm])
        assert world.ended[1].workflow.workflow_id == first


def test_longest_prefix_match_lets_the_cached_request_go_first() -> None:
    for order, first in (("fcfs", "cold"), ("lpm", "warm")):
        world = World(engine=EngineConfig(64, 1, order))  # type: ignore[arg-type]
        trace = [
            workflow("seed", call(0, {1: 16}, 9), arrival_s=0.0),
            workflow("cold", call(0, {2: 20}, 1), arrival_s=0.5),
            workflow("warm", call(0, {1: 16, 3: 4}, 1), arrival_s=0.6),
        ]
        world.open(trace)
        assert world.ended[1].workflow.workflow_id == first


def test_no_more_requests_run_than_sequences_are_allowed() -> None:
    world = World(engine=EngineConfig(64, 2))
    world.closed([workflow(f"w{i}", call(0, {i: 8}, 1)) for i in range(4)], 4)
    assert [round(request.ended_at_s, 3) for request in world.ended] == [1.016, 1.016, 2.032, 2.032]


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ((64, 0, "fcfs"), "max_sequences"),
        ((8, 8, "fcfs"), "max_batched_tokens"),
        ((64, 8, "best"), "request_order"),
    ],
)
def test_bad_limits_are_refused(limits: tuple[int, int, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        EngineConfig(*limits)  # type: ignore[arg-type]
