"""The generated workloads: deterministic, valid, shaped as the paper's figures say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice, pairwise
from pathlib import Path

import pytest

from pbkv.traces.errors import ConfigError
from pbkv.traces.generate import generate_workflow, generate_workload, workload_metadata
from pbkv.traces.knobs import END, WORKLOADS, Spread, load_workload
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, Workflow
from pbkv.traces.writer import write_trace


@cache
def _generated(name: str) -> list[Workflow]:
    return list(generate_workload(name, 250, seed=0))


def _calls(name: str) -> list[Call]:
    return [call for workflow in _generated(name) for call in workflow.calls]


@cache
def _fixed_ids(name: str) -> set[int]:
    return {1 + i for i in range(2 * len(load_workload(name).agents))}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workflow_depends_on_seed_and_index_only(name: str) -> None:
    first = list(generate_workload(name, 3, seed=7))
    assert first == list(islice(generate_workload(name, 1000, seed=7), 3))
    assert first != list(generate_workload(name, 3, seed=8))
    assert first[2] == generate_workflow(load_workload(name), 2, seed=7)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_generated_trace_is_written_and_read_back_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_trace(path, generate_workload(name, 5, seed=1), workload_metadata(name, 5, seed=1))
    trace = Trace(path)
    back = [call for workflow in trace.workflows(everything=True) for call in workflow.calls]
    made = [call for workflow in generate_workload(name, 5, seed=1) for call in workflow.calls]
    assert [_plain(call) for call in back] == [_plain(call) for call in made]
    assert trace.metadata.seed == 1
    assert trace.metadata.num_workflows == 5
    assert trace.metadata.extra["workload"] == name


def _plain(call: Call) -> list[object]:
    return [list(value) if isinstance(value, (list, tuple)) else value for value in call]


@pytest.mark.parametrize("name", WORKLOADS)
def test_an_id_has_one_length_and_private_ids_have_one_workflow(name: str) -> None:
    lengths: dict[int, int] = {}
    owners: dict[int, str] = {}
    shared = _fixed_ids(name)
    for workflow in _generated(name):
        for call in workflow.calls:
            assert call.output_id is not None
            named = zip(call.segment_ids, call.segment_tokens, strict=True)
            for segment_id, num_tokens in [*named, (call.output_id, call.num_output_tokens)]:
                assert lengths.setdefault(segment_id, num_tokens) == num_tokens
                if segment_id not in shared:
                    assert owners.setdefault(segment_id, workflow.workflow_id) == workflow.workflow_id
    assert max(lengths) < 2**62


@pytest.mark.parametrize("name", WORKLOADS)
def test_an_agent_finds_its_own_history_again_and_its_answer_without_the_thought(name: str) -> None:
    num_agents_called_again = 0
    for workflow in _generated(name)[:50]:
        seen: dict[str, Call] = {}
        for call in workflow.calls:
            if call.agent in seen:
                before = seen[call.agent]
                known = before.segment_ids
                assert call.segment_ids[: len(known)] == known
                assert _kinds(call)[len(known) :] == ("output", _kinds(call)[-1])
                assert (call.segment_ids[-2] == before.output_id) == (_thought(before, call) == 0)
                num_agents_called_again += 1
            seen[call.agent] = call
        assert len({call.segment_ids[0] for call in seen.values()}) == len(seen)  # no prefix across agents
    assert num_agents_called_again > 100


def _thought(before: Call, call: Call) -> int:
    """Tokens that ``before`` generated and that the next call of its agent does not hold."""
    return before.num_output_tokens - call.segment_tokens[-2]


@pytest.mark.parametrize("name", WORKLOADS)
def test_thoughts_change_nothing_but_the_generated_tokens_and_their_ids(name: str) -> None:
    workload = load_workload(name)
    agents = tuple(replace(agent, thought=Spread(0.0, 0.0)) for agent in workload.agents)
    thinking = generate_workflow(workload, 0, seed=0).calls
    silent = generate_workflow(replace(workload, agents=agents), 0, seed=0).calls
    for call, same in zip(thinking, silent, strict=True):
        assert call.num_output_tokens > same.num_output_tokens
        assert (call.agent, call.segment_tokens, call.context) == (
            same.agent,
            same.segment_tokens,
            same.context,
        )


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_others_answered_is_handed_over_as_new_text(name: str) -> None:
    workload = load_workload(name)
    nothing = Spread(0.0, 0.0)
    agents = tuple(replace(agent, fresh=nothing, thought=nothing) for agent in workload.agents)
    silent = replace(workload, agents=agents)
    calls = generate_workflow(silent, 0, seed=0).calls
    for index, call in enumerate(calls):
        earlier = [i for i in range(index) if calls[i].agent == call.agent]
        handed = sum(c.num_output_tokens for c in calls[earlier[-1] + 1 if earlier else 0 : index])
        assert call.segment_tokens[-1] == max(1, handed)


@pytest.mark.parametrize("name", WORKLOADS)
def test_calls_follow_the_declared_graph_one_after_the_other(name: str) -> None:
    graph = {agent.name: set(agent.next) for agent in load_workload(name).agents}
    for workflow in _generated(name):
        agents = [call.agent for call in workflow.calls]
        assert all(follower in graph[agent] for agent, follower in pairwise([*agents, END]))
        assert [list(call.parent_indices) for call in workflow.calls][1:] == [
            [i] for i in range(len(agents) - 1)
        ]
    assert {a: set(n) for a, n in _call_graph(name).items()} == graph


def _call_graph(name: str) -> dict[str, list[str]]:
    graph = workload_metadata(name, 1, seed=0).extra["call_graph"]
    assert isinstance(graph, dict)
    return graph


def test_finance_is_static() -> None:
    orders = {tuple(call.agent for call in workflow.calls) for workflow in _generated("finance")}
    assert len(orders) == 1
    assert len(orders.pop()) == 10


def test_a_few_repairs_take_three_times_the_median_as_in_sweagents_logs() -> None:
    """5th, 50th, 90th, 99th percentile there: 23, 39, 67, 128 calls."""
    counts = sorted(len(workflow.calls) for workflow in _generated("swe"))
    low, median, high, tail = (counts[int(share * len(counts))] for share in (0.05, 0.5, 0.9, 0.99))
    assert 15 <= low <= 25
    assert 33 <= median <= 43
    assert 1.5 <= high / median <= 1.9
    assert 2.2 <= tail / median <= 3.5


# (mean calls, mean seconds outside the LLM, mean prompt, reuse of an infinite cache, share of fixed prompts):
# the figures that the TOML files aim at, with room for what 250 workflows scatter.
SHAPES = {
    "hover": ((11, 13.5), (6, 18), (1500, 2500), (0.74, 0.78), (0.16, 0.20)),
    "swe": ((36, 43), (42, 77), (4000, 6500), (0.85, 0.90), (0.34, 0.40)),
    "finance": ((10, 10), (0.7, 1.3), (1500, 3500), (0.63, 0.68), (0.22, 0.27)),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_shape_is_what_the_paper_implies(name: str) -> None:
    workflows, calls = _generated(name), _calls(name)
    prompts = sum(call.num_prompt_tokens for call in calls)
    figures = (
        len(calls) / len(workflows),
        sum(call.tool_gap_s or 0 for call in calls) / len(workflows),
        prompts / len(calls),
        sum(map(_reused_tokens, workflows)) / prompts,
        sum(_fixed_tokens(name, call) for call in calls) / prompts,
    )
    for figure, (low, high) in zip(figures, SHAPES[name], strict=True):
        assert low <= figure <= high


def _reused_tokens(workflow: Workflow) -> int:
    """Prompt tokens that an infinite cache would serve, the fixed prompts being cached already."""
    known: dict[str, int] = {}
    reused = 0
    for call in workflow.calls:
        fixed = sum(call.segment_tokens[i] for i, k in enumerate(_kinds(call)) if k in ("system", "tools"))
        reused += known.get(call.agent, fixed)
        known[call.agent] = call.num_prompt_tokens
    return reused


def _kinds(call: Call) -> Sequence[str]:
    assert call.segment_kinds is not None
    return call.segment_kinds


def _fixed_tokens(name: str, call: Call) -> int:
    fixed = _fixed_ids(name)
    return sum(n for i, n in zip(call.segment_ids, call.segment_tokens, strict=True) if i in fixed)


@pytest.mark.parametrize(
    ("name", "num_workflows", "seed"),
    [("chess", 1, 0), ("no/such.toml", 1, 0), ("hover", 0, 0), ("hover", 1, -1)],
)
def test_bad_arguments_are_refused_at_once(name: str, num_workflows: int, seed: int) -> None:
    with pytest.raises(ConfigError):
        generate_workload(name, num_workflows, seed)
    with pytest.raises(ConfigError):
        workload_metadata(name, num_workflows, seed)
