"""The bounds that know the future: what they expect when, and who goes first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.cache.blocks import PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.future import NEVER, EstimatedFuture
from pbkv.cache.known import Known, MissCosts
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import make_policy
from pbkv.cache.tree import Node
from pbkv.serve.future import uses_by_workflow
from pbkv.traces.schema import Call, Workflow
from tests.strategies import workflows

B = 4
NOWHERE = Node(None, [], [], 0, 0, "")


def workflow(name: str, agents: str, gaps_s: dict[int, float] | None = None) -> Workflow:
    """A chain of calls; agent i's prompt is private and two blocks long, a capital's is everybody's."""
    calls = [
        Call(
            i,
            agent,
            (i - 1,) if i else (),
            (gaps_s or {}).get(i, 0.0),
            (segment_of(name, agent), 10_000 + i),
            (8, 1),
            1,
        )
        for i, agent in enumerate(agents)
    ]
    return Workflow(name, "app", None, calls)


def segment_of(name: str, agent: str) -> int:
    return ord(agent) if agent.isupper() else 1000 * ord(name) + ord(agent)


class World:
    """A cache of two-block prompts whose policy knows ``flows``, in their order of release."""

    def __init__(
        self, flows: list[Workflow], gpu_blocks: int, host_blocks: int = 0, policy: str = "belady"
    ) -> None:
        self.table = PathTable(B)
        uses = uses_by_workflow(((0, flow) for flow in flows), self.table, unknown_gap_s=0.0)
        costs = MissCosts(prefill_s_per_token=1.0, prefill_s_per_pair=0.5, load_s_per_token=0.01)
        chosen = make_policy(policy, known=Known(uses, costs, block_size=B))
        config = CacheConfig(gpu_blocks, host_blocks, B, min_load_tokens=0)
        self.manager = CacheManager(config, self.table, chosen)
        self.now_s = 0.0

    def serve(self, flow: Workflow, position: int) -> None:
        """A call that comes in, runs for a second and ends."""
        self.manager.call_submitted(flow, position, self.now_s)
        call = flow.calls[position]
        path = self.table.path(call.segment_ids, call.segment_tokens)
        admission = self.manager.admit(path, flow.workflow_id, self.now_s, agent=call.agent)
        assert admission is not None
        if admission.load is not None:
            self.manager.end_load(admission.load)
        self.manager.commit(admission.lease, self.now_s)
        for offload in self.manager.tiers.take_offloads():
            self.manager.tiers.end_offload(offload, self.now_s)
        self.now_s += 1.0
        self.manager.call_computed(flow, position, self.now_s)
        self.manager.finish(admission.lease, None, path.num_tokens, self.now_s)
        self.manager.call_ended(flow, position, self.now_s)
        if position == len(flow.calls) - 1:
            self.manager.workflow_ended(flow, self.now_s)
        self.manager.check_invariants()

    def holds(self, flow: Workflow, position: int) -> bool:
        call = flow.calls[position]
        path = self.table.path(call.segment_ids, call.segment_tokens)
        match = self.manager.tree.match(path, 2)
        return match.num_blocks == 2 and all(node.gpu for node in match.nodes)


# ---------------------------------------------------------------------- who goes first


def test_what_is_needed_soonest_stays_though_it_was_used_longest_ago() -> None:
    soon, late, third = workflow("x", "aa"), workflow("y", "abca"), workflow("z", "ab")
    world = World([soon, late, third], 5)
    world.serve(soon, 0)
    world.serve(late, 0)
    world.serve(third, 0)
    assert (world.holds(soon, 0), world.holds(late, 0)) == (True, False)


def test_what_is_never_needed_again_goes_first_though_its_workflow_is_active() -> None:
    done, late, third = workflow("x", "abc"), workflow("y", "abcda"), workflow("z", "ab")
    world = World([done, late, third], 5)
    world.serve(late, 0)
    world.serve(done, 0)  # used last
    world.serve(third, 0)
    assert (world.holds(done, 0), world.holds(late, 0)) == (False, True)


def test_a_long_tool_wait_counts_and_not_the_number_of_calls() -> None:
    waits, works, third = workflow("x", "aa", {1: 60.0}), workflow("y", "abca"), workflow("z", "ab")
    world = World([waits, works, third], 5)
    world.serve(works, 0)
    world.serve(waits, 0)
    world.serve(third, 0)
    assert (world.holds(waits, 0), world.holds(works, 0)) == (False, True)


def test_what_was_due_and_has_been_used_goes() -> None:
    """y's prompt was the one to keep, until its second use: then nobody needs it."""
    x, y, z = workflow("x", "abca"), workflow("y", "aab"), workflow("z", "ab")
    world = World([x, y, z], 5)
    world.serve(x, 0)
    world.serve(y, 0)
    world.serve(y, 1)
    world.serve(z, 0)
    assert (world.holds(x, 0), world.holds(y, 0)) == (True, False)


def test_a_call_that_waits_in_the_queue_keeps_its_prefix() -> None:
    queued, works, third = workflow("x", "aa", {1: 60.0}), workflow("y", "aba"), workflow("z", "ab")
    world = World([queued, works, third], 5)
    world.serve(queued, 0)
    world.serve(works, 0)
    world.manager.call_submitted(queued, 1, world.now_s)
    world.serve(third, 0)
    assert (world.holds(queued, 0), world.holds(works, 0)) == (True, False)


def test_a_workflow_not_yet_released_will_need_the_shared_prompt() -> None:
    """S outlives those who used it, as w is to come; x's own prompt does not."""
    first, second, third, coming = (
        workflow("u", "S"),
        workflow("x", "a"),
        workflow("z", "ab"),
        workflow("w", "S"),
    )
    world = World([first, second, third, coming], 5)
    world.serve(first, 0)
    world.serve(second, 0)
    world.serve(third, 0)
    assert (world.holds(first, 0), world.holds(second, 0)) == (True, False)


def test_a_miss_that_costs_a_copy_is_risked_before_one_that_costs_a_prefill() -> None:
    """x comes back a little sooner, but lies on the host too."""
    x, y, z = workflow("x", "abca"), workflow("y", "abcda"), workflow("z", "ab")
    for policy, left in (("belady", (True, False)), ("belady-cost", (False, True))):
        world = World([x, y, z], 5, 2, policy)
        world.serve(x, 0)  # fills the host
        world.serve(y, 0)  # does not fit there: x's copy is needed sooner
        assert [node.host for node in world.manager.tree.nodes()].count(True) == 1
        world.serve(z, 0)
        assert (world.holds(x, 0), world.holds(y, 0)) == left


def test_without_a_future_the_bounds_are_lru() -> None:
    flows = [workflow(name, "ab") for name in "xyz"]
    for policy in ("belady", "belady-cost"):
        manager = CacheManager(CacheConfig(5, 0, B), PathTable(B), make_policy(policy))
        for now, flow in enumerate(flows):
            call = flow.calls[0]
            path = manager.table.path(call.segment_ids, call.segment_tokens)
            admission = manager.admit(path, flow.workflow_id, float(now))
            assert admission is not None
            manager.finish(admission.lease, path, 9, float(now))
        kept = {node.owner for node in manager.tree.nodes()}
        assert kept == {"y", "z"}


# ---------------------------------------------------------------------- when


def run_of(table: PathTable, flow: Workflow, position: int) -> int:
    call = flow.calls[position]
    return table.path(call.segment_ids, call.segment_tokens).keys[0]


def test_a_coming_call_is_expected_after_the_calls_and_waits_before_it() -> None:
    """Last event + mean call × calls between + tool waits between."""
    flow, table = workflow("x", "abcd", {1: 0.5, 2: 7.0, 3: 1.0}), PathTable(B)
    future = EstimatedFuture(uses_by_workflow([(0, flow)], table, 0.0))

    def due_s(position: int) -> float:
        return future.next_use_s(run_of(table, flow, position), 1, NOWHERE)

    future.submitted(flow, 0, 10.0)
    assert due_s(0) == 10.0
    future.call_ended(flow, 0, 14.0)
    assert (due_s(0), due_s(1), due_s(3)) == (NEVER, 14.5, 14.5 + 4.0 + 7.0 + 4.0 + 1.0)
    future.submitted(flow, 1, 15.0)
    assert (due_s(1), due_s(2)) == (15.0, 15.0 + 4.0 + 7.0)
    future.call_ended(flow, 1, 17.0)  # the mean is three seconds now
    assert (due_s(2), due_s(3)) == (24.0, 24.0 + 3.0 + 1.0)


def test_the_longest_chain_counts_where_calls_fan_out() -> None:
    """0 → 1 → 2 and 0 → 3; 4 joins 2 and 3."""
    shape = [(), (0,), (1,), (0,), (2, 3)]
    calls = [Call(i, "a", parents, 0.0, (i, 9), (8, 1), 1) for i, parents in enumerate(shape)]
    flow, table = Workflow("x", "app", None, calls), PathTable(B)
    future = EstimatedFuture(uses_by_workflow([(0, flow)], table, 0.0))
    future.submitted(flow, 0, 0.0)
    future.call_ended(flow, 0, 1.0)
    runs = [run_of(table, flow, i) for i in range(5)]
    assert [future.next_use_s(run, 1, NOWHERE) for run in runs] == [NEVER, 1.0, 2.0, 1.0, 3.0]


def test_unreleased_workflows_come_at_the_rate_of_those_before_them() -> None:
    flows = [workflow(name, "S") for name in "uvwx"]
    flows[3] = workflow("x", "T")
    table = PathTable(B)
    future = EstimatedFuture(uses_by_workflow(((0, flow) for flow in flows), table, 0.0))
    run = run_of(table, flows[3], 0)
    future.submitted(flows[0], 0, 0.0)
    assert future.next_use_s(run, 1, NOWHERE) == NEVER  # no rate yet
    future.submitted(flows[1], 0, 6.0)
    assert future.next_use_s(run, 1, NOWHERE) == 6.0 + 2 * 6.0


@given(trace=workflows(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_an_estimate_moves_away_only_with_an_answer(trace: list[Workflow], data: st.DataObject) -> None:
    """The queue's contract: a key that falls is in the answer to the event that made it fall."""
    table = PathTable(B)
    future = EstimatedFuture(uses_by_workflow(((0, flow) for flow in trace), table, 0.0))
    runs = sorted(
        {
            (run, end)
            for flow in trace
            for call in flow.calls
            for run, end in zip(*_runs(table, call), strict=True)
        }
    )
    nodes = {run: Node(None, [run[0]], [run[1]], 0, serial, "") for serial, run in enumerate(runs)}
    last = {run: future.next_use_s(*run, nodes[run]) for run in runs}
    now_s = 0.0
    for flow in data.draw(st.permutations(trace)):
        for call in flow.calls:
            for event in (future.submitted, future.call_ended):
                now_s += data.draw(st.sampled_from([0.0, 0.5, 7.0]))
                last = _checked(future, last, nodes, event(flow, call.call_index, now_s))
        last = _checked(future, last, nodes, future.ended(flow, now_s))
    assert set(last.values()) <= {NEVER}


def _runs(table: PathTable, call: Call) -> tuple[list[int], list[int]]:
    path = table.path(call.segment_ids, call.segment_tokens)
    return path.keys, path.ends


Run = tuple[int, int]


def _checked(
    future: EstimatedFuture, last: dict[Run, float], nodes: dict[Run, Node], changed: object
) -> dict[Run, float]:
    assert isinstance(changed, list | tuple)
    told = {node.serial for node in changed}
    now = {run: future.next_use_s(*run, nodes[run]) for run in last}
    for run, at_s in now.items():
        assert at_s <= last[run] or nodes[run].serial in told
    return now


# ---------------------------------------------------------------------- costs


def test_a_miss_costs_more_the_deeper_it_is() -> None:
    costs = MissCosts(1.0, 0.5, 3.0, 0.25)
    assert costs.prefill_s(0, 4) == 4 + 0.5 * 4 * 2
    assert costs.prefill_s(10, 4) == 4 + 0.5 * 4 * 12
    assert costs.load_s(8) == 3.0 + 2.0


@pytest.mark.parametrize("policy", ["belady", "belady-cost"])
def test_an_unknown_workflow_is_told(policy: str) -> None:
    """A bound reads one trace; another's workflow is a bug of the simulation."""
    world = World([workflow("x", "a")], 5, policy=policy)
    with pytest.raises(KeyError):
        world.manager.call_submitted(workflow("y", "a"), 0, 0.0)
