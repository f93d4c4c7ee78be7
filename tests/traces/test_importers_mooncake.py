"""Mooncake's two formats: compression to segments, block sizes, dependencies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.traces import importers
from pbkv.traces.errors import ConfigError, PbkvError, TraceError
from pbkv.traces.schema import Call, Workflow

HEADER = {
    "schema": "dynamo.agentic_mooncake",
    "version": 2,
    "block_size": 4,
    "hash_id_scope": "local",
    "source": {"format": "test", "digest": "none"},
}


def plain(hash_ids: Sequence[int], num_tokens: int, at_ms: float = 0, **changes: Any) -> dict[str, Any]:
    lengths = {"input_length": num_tokens, "output_length": 1}
    return {"timestamp": at_ms, **lengths, "hash_ids": list(hash_ids), **changes}


def request(name: str, *parents: str, delay_ms: float = 10, **changes: Any) -> dict[str, Any]:
    dependencies = [
        {"request_id": parent, "trigger": "completion", "delay_ms": delay_ms, "relation": "sequence"}
        for parent in parents
    ]
    fields = {"request_id": name, "play_id": "p", "session_id": "p:main", "model": "m", "input_length": 4}
    return {
        **fields,
        "output_length": 2,
        "hash_ids": [1],
        "not_before_ms": 0,
        "dependencies": dependencies,
    } | changes


def written(folder: Path, *rows: object) -> Path:
    path = folder / "trace"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def imported(path: Path, block_size: int | None = None) -> list[Workflow]:
    workflows, _ = importers.read(path, block_size=block_size)
    return list(workflows)


def prompts(workflows: Sequence[Workflow]) -> list[list[tuple[int, int]]]:
    calls = [call for workflow in workflows for call in workflow.calls]
    return [list(zip(call.segment_ids, call.segment_tokens, strict=True)) for call in calls]


def num_shared_tokens(one: Call, other: Call) -> int:
    shared = 0
    for a, b, num_tokens in zip(one.segment_ids, other.segment_ids, one.segment_tokens, strict=False):
        if a != b:
            break
        shared += num_tokens
    return shared


def test_blocks_that_only_occur_together_become_one_segment(tmp_path: Path) -> None:
    rows = [plain([1, 2, 3, 4], 16), plain([1, 2, 3, 5, 6], 20), plain([1, 2], 8)]
    assert prompts(imported(written(tmp_path, *rows), 4)) == [
        [(0, 8), (1, 4), (2, 4)],
        [(0, 8), (1, 4), (3, 8)],
        [(0, 8)],
    ]


def test_equal_ids_behind_different_ones_are_not_shared(tmp_path: Path) -> None:
    assert prompts(imported(written(tmp_path, plain([1, 9], 8), plain([2, 9], 8)), 4)) == [[(0, 8)], [(1, 8)]]


def test_a_last_block_that_is_not_full_is_another_block_than_the_full_one(tmp_path: Path) -> None:
    rows = [plain([1, 2], 6), plain([1, 2], 8), plain([1, 2], 6), plain([1, 2, 3], 9)]
    assert prompts(imported(written(tmp_path, *rows), 4)) == [
        [(0, 4), (1, 2)],
        [(0, 4), (2, 4)],
        [(0, 4), (1, 2)],
        [(0, 4), (2, 4), (3, 1)],
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(1, 4)), min_size=2)
)
def test_prompts_share_exactly_their_leading_equal_blocks(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[list[int], int]]
) -> None:
    rows = [plain(ids, 4 * (len(ids) - 1) + num_last) for ids, num_last in drawn]
    workflows = imported(written(tmp_path_factory.mktemp("prompts"), *rows), 4)
    blocks = [[*((i, 4) for i in ids[:-1]), (ids[-1], num_last)] for ids, num_last in drawn]
    for first, own in zip(workflows, blocks, strict=True):
        for second, others in zip(workflows, blocks, strict=True):
            expected = 0
            for a, b in zip(own, others, strict=False):
                if a != b:
                    break
                expected += a[1]
            assert num_shared_tokens(first.calls[0], second.calls[0]) == expected


def test_rows_come_by_time_and_ties_in_file_order(tmp_path: Path) -> None:
    rows = [plain([1], 4, 2000), plain([2], 4, 500), plain([3, 4], 8, 500)]
    workflows = imported(written(tmp_path, *rows), 4)
    assert [workflow.arrival_s for workflow in workflows] == [0.5, 0.5, 2.0]
    assert [workflow.calls[0].num_prompt_tokens for workflow in workflows] == [4, 8, 4]
    assert workflows[0].calls[0].output_id is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([plain([1, 2], 8), plain([1, 2, 3], 9)], 4),
        ([plain([1, 2], 100), plain([1], 64)], 64),
    ],
)
def test_the_block_size_is_told_from_the_lengths(
    tmp_path: Path, rows: list[dict[str, Any]], expected: int
) -> None:
    _, metadata = importers.read(written(tmp_path, *rows))
    assert metadata.extra["block_size"] == expected


def test_lengths_that_no_block_size_fits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="one block size"):
        imported(written(tmp_path, plain([1], 100), plain([1, 2], 8)))


def test_lengths_that_leave_the_block_size_open_ask_for_it(tmp_path: Path) -> None:
    path = written(tmp_path, plain([1], 100))
    with pytest.raises(ConfigError, match="block_size"):
        imported(path)
    assert len(imported(path, 128)) == 1


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (plain([1, 2], 4), "hash_ids"),
        (plain([], 4), "hash_ids"),
        (plain([-1], 4), "hash_ids"),
        (plain([1], 4) | {"hash_ids": [1.5]}, "hash_ids"),
        (plain([1], 4) | {"hash_ids": [[1]]}, "hash_ids"),
        (plain([1], 4) | {"hash_ids": [[1], 2]}, "hash_ids"),
        (plain([1], 4) | {"hash_ids": "1"}, "hash_ids"),
        (plain([2**64], 4), "hash_ids"),
        (plain([1], -4), "input_length"),
        (plain([1], 4, output_length=-1), "output_length"),
        (plain([1], 4, float("nan")), "timestamp"),
        (plain([1], 4, -1), "timestamp"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], field: str) -> None:
    with pytest.raises(TraceError) as caught:
        imported(written(tmp_path, plain([7], 4), row), 4)
    assert caught.value.field == f"line 2: {field}"


def test_ids_may_use_all_of_64_bits(tmp_path: Path) -> None:
    rows = [plain([2**64 - 1, 2**63], 8), plain([2**64 - 1, 0], 8)]
    assert prompts(imported(written(tmp_path, *rows), 4)) == [[(0, 4), (1, 4)], [(0, 4), (2, 4)]]


def test_a_play_becomes_a_workflow_with_parents_gaps_and_agents(tmp_path: Path) -> None:
    rows = [
        request("a", not_before_ms=1500),
        request("b", "a", delay_ms=20, session_id="p:tool user"),
        request("c", "a", delay_ms=30, session_id="x"),
        request("d", "b", "c", delay_ms=40),
    ]
    (workflow,) = imported(written(tmp_path, HEADER, *rows))
    assert (workflow.workflow_id, workflow.arrival_s) == ("p", 1.5)
    assert [call.agent for call in workflow.calls] == ["main", "tool user", "sub-agent", "main"]
    assert [tuple(call.parent_indices) for call in workflow.calls] == [(), (0,), (0,), (1, 2)]
    assert [call.tool_gap_s for call in workflow.calls] == [0.0, 0.02, 0.03, 0.04]
    assert {call.tool_gap_origin for call in workflow.calls} == {"logged"}


def test_calls_come_in_start_order_and_workflows_by_arrival(tmp_path: Path) -> None:
    rows = [
        request("late", play_id="q", not_before_ms=9),
        request("child", "root", output_length=7),
        request("root", not_before_ms=3),
    ]
    workflows = imported(written(tmp_path, HEADER, *rows))
    assert [workflow.workflow_id for workflow in workflows] == ["p", "q"]
    assert [call.num_output_tokens for call in workflows[0].calls] == [2, 7]


def test_the_gap_of_a_second_root_counts_from_the_arrival(tmp_path: Path) -> None:
    rows = [request("a", not_before_ms=1000), request("b", not_before_ms=3000)]
    (workflow,) = imported(written(tmp_path, HEADER, *rows))
    assert (workflow.arrival_s, [call.tool_gap_s for call in workflow.calls]) == (1.0, [0.0, 2.0])


def test_what_a_trace_cannot_keep_is_counted(tmp_path: Path) -> None:
    differing = request("c", "a", "b")
    differing["dependencies"][0]["delay_ms"] = 99
    rows = [request("a"), request("b", "a", not_before_ms=5), differing]
    workflows, metadata = importers.read(written(tmp_path, HEADER, *rows))
    assert metadata.extra["num_dropped_not_before"] == 1
    assert metadata.extra["num_merged_delays"] == 1
    assert next(workflows).calls[2].tool_gap_s == 0.099


def _triggered(trigger: str) -> dict[str, Any]:
    row = request("b", "a")
    row["dependencies"][0]["trigger"] = trigger
    return row


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([request("a", "nobody")], "line 2: dependencies"),
        ([request("a"), request("b", "a", play_id="q")], "the same play"),
        ([request("a", "b"), request("b", "a")], "cycle"),
        ([request("a", "a")], "cycle"),
        ([request("a"), request("a")], "line 3: request_id"),
        ([request("a"), _triggered("dispatch")], r"dependencies\[0\].trigger"),
        ([request("a"), request("b", "a", delay_ms=-1)], r"dependencies\[0\].delay_ms"),
        ([request("a", dependencies=["b"])], r"dependencies\[0\]"),
        ([request("a", hash_ids=[1, 2])], "line 2: hash_ids"),
        ([], "at least one request"),
    ],
)
def test_a_bad_play_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        imported(written(tmp_path, HEADER, *rows))


@pytest.mark.parametrize("changes", [{"version": 3}, {"schema": "other"}, {"block_size": 0}])
def test_a_bad_header_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(PbkvError, match=f"line 1: {next(iter(changes))}"):
        imported(written(tmp_path, HEADER | changes, request("a")))


@pytest.mark.parametrize("name", ["agent20k.plain.jsonl.gz", "agent20k.v2.jsonl.gz"])
def test_the_benchmark_trace_compresses_to_its_known_number_of_segments(
    shared_bench: Path, name: str
) -> None:
    workflows, metadata = importers.read(shared_bench / name)
    calls = [call for workflow in workflows for call in workflow.calls]
    assert metadata.extra["block_size"] == 64
    assert len(calls) == 20_007
    assert len({segment for call in calls for segment in call.segment_ids}) == 20_063
    assert sum(call.num_prompt_tokens for call in calls) == 64 * 2_754_968


@pytest.mark.parametrize(
    ("name", "num_calls", "mean_prompt_tokens"),
    [("mooncake_conversation", 12_031, 12_035), ("mooncake_synthetic", 3_993, 15_325)],
)
def test_mooncakes_own_traces_have_their_published_sizes(
    shared_data: Path, name: str, num_calls: int, mean_prompt_tokens: int
) -> None:
    workflows, metadata = importers.read(shared_data / "classB" / f"{name}.jsonl.gz")
    lengths = [workflow.calls[0].num_prompt_tokens for workflow in workflows]
    assert metadata.extra["block_size"] == 512
    assert (len(lengths), sum(lengths) // len(lengths)) == (num_calls, mean_prompt_tokens)
