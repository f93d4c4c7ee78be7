"""Exports to agentic Mooncake v2 and back."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbkv.traces import importers
from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.export_mooncake_v2 import export
from pbkv.traces.generate import generate_workload
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, TraceMetadata, Workflow
from pbkv.traces.writer import write_trace

BLOCK = 4


def stored(folder: Path, workflows: Sequence[Workflow]) -> Trace:
    path = folder / "trace.parquet"
    write_trace(path, workflows, TraceMetadata("test"), force=True)
    return Trace(path)


def round_trip(folder: Path, workflows: Sequence[Workflow], block_size: int = BLOCK) -> list[Workflow]:
    out = folder / "out.jsonl.gz"
    export(stored(folder, workflows), out, block_size=block_size, force=True)
    back, metadata = importers.read(out)
    assert metadata.extra == {"format": "mooncake-v2", "block_size": block_size}
    return list(back)


def call(
    index: int, segments: Sequence[tuple[int, int]], parents: Sequence[int] = (), agent: str = "a"
) -> Call:
    ids, tokens = zip(*segments, strict=True)
    return Call(
        index, agent, tuple(parents), 0.5 if parents else 0.0, ids, tokens, 3, tool_gap_origin="logged"
    )


def num_shared_blocks(one: Call, other: Call) -> int:
    """Full blocks that two prompts share, by the definition: their leading run of equal ids."""
    num_tokens = 0
    for a, b, length in zip(one.segment_ids, other.segment_ids, one.segment_tokens, strict=False):
        if a != b:
            break
        num_tokens += length
    return num_tokens // BLOCK


def all_calls(workflows: Sequence[Workflow]) -> list[Call]:
    return [call for workflow in workflows for call in workflow.calls]


LENGTHS = [3, 4, 9, 1, 5]  # of the segments with ids 0 to 4


@st.composite
def small_traces(draw: st.DrawFn) -> list[Workflow]:
    workflows = []
    for number in range(draw(st.integers(1, 3))):
        calls = []
        for index in range(draw(st.integers(1, 4))):
            ids = draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))
            parents = sorted(draw(st.sets(st.integers(0, index - 1), max_size=2))) if index else []
            agent = draw(st.sampled_from(["planner", "a:b", "écrivain"]))
            calls.append(call(index, [(i, LENGTHS[i]) for i in ids], parents, agent))
        workflows.append(Workflow(f"w{number}", "demo", float(number), calls))
    return workflows


@settings(max_examples=80, deadline=None)
@given(small_traces())
def test_a_round_trip_keeps_calls_parents_gaps_arrivals_and_shared_blocks(
    tmp_path_factory: pytest.TempPathFactory, workflows: list[Workflow]
) -> None:
    back = round_trip(tmp_path_factory.mktemp("trip"), workflows)
    for before, after in zip(workflows, back, strict=True):
        assert (before.workflow_id, before.arrival_s) == (after.workflow_id, after.arrival_s)
        for one, other in zip(before.calls, after.calls, strict=True):
            assert (one.agent, tuple(one.parent_indices)) == (other.agent, tuple(other.parent_indices))
            assert one.tool_gap_s == other.tool_gap_s
            assert one.num_output_tokens == other.num_output_tokens
            assert one.num_prompt_tokens == other.num_prompt_tokens
    pairs = zip(combinations(all_calls(workflows), 2), combinations(all_calls(back), 2), strict=True)
    for (one, two), (other_one, other_two) in pairs:
        assert num_shared_blocks(one, two) == num_shared_blocks(other_one, other_two)


def test_a_generated_trace_survives_the_round_trip(tmp_path: Path) -> None:
    workflows = list(generate_workload("hover", 20, 3))
    back = {workflow.workflow_id: workflow for workflow in round_trip(tmp_path, workflows, 16)}
    for before in workflows:
        after = back[before.workflow_id]
        assert [call.agent for call in before.calls] == [call.agent for call in after.calls]
        gaps = [call.tool_gap_s for call in before.calls]
        assert [call.tool_gap_s for call in after.calls] == pytest.approx(gaps, abs=1e-9)
        lengths = [call.num_prompt_tokens for call in before.calls]
        assert [call.num_prompt_tokens for call in after.calls] == lengths


def test_the_rows_have_the_shape_that_aisimulate_reads(tmp_path: Path) -> None:
    calls = [
        call(0, [(0, 6)], agent="planner"),
        call(1, [(0, 6), (1, 2)], [0], "worker"),
        call(2, [(0, 6), (1, 2)], [1], "worker"),
        call(3, [(0, 6), (2, 1)], [0, 2], "planner"),
    ]
    out = tmp_path / "out.jsonl"
    trace = stored(tmp_path, [Workflow("w", "demo", 1.25, calls)])
    assert export(trace, out, block_size=BLOCK) == 4
    header, *rows = (json.loads(line) for line in out.read_text().splitlines())
    assert header["schema"] == "dynamo.agentic_mooncake"
    assert (header["version"], header["block_size"], header["hash_id_scope"]) == (2, 4, "local")
    assert header["source"] == {"format": "pbkv", "digest": trace.metadata.digest}
    assert rows[0] == {
        "request_id": "w/0",
        "play_id": "w",
        "session_id": "w:planner",
        "model": "any",
        "input_length": 6,
        "output_length": 3,
        "hash_ids": [0, 1],
        "not_before_ms": 1250.0,
        "dependencies": [],
    }
    assert [row["hash_ids"] for row in rows[1:]] == [[0, 2], [0, 2], [0, 3]]
    relations = [[dependency["relation"] for dependency in row["dependencies"]] for row in rows]
    assert relations == [[], ["spawn"], ["sequence"], ["sequence", "join"]]
    assert rows[1]["dependencies"][0] == {
        "request_id": "w/0",
        "trigger": "completion",
        "delay_ms": 500.0,
        "relation": "spawn",
    }


def test_unknown_times_become_zero_and_an_empty_answer_one_token(tmp_path: Path) -> None:
    calls = [call(0, [(0, 6)]), call(1, [(0, 6)], [0])]
    unknown = [one._replace(tool_gap_s=None, tool_gap_origin=None, num_output_tokens=0) for one in calls]
    (back,) = round_trip(tmp_path, [Workflow("w", "demo", None, unknown)])
    assert back.arrival_s == 0.0
    assert [(one.tool_gap_s, one.num_output_tokens) for one in back.calls] == [(0.0, 1), (0.0, 1)]


def test_equal_traces_give_equal_bytes(tmp_path: Path) -> None:
    trace = stored(tmp_path, [Workflow("w", "demo", None, [call(0, [(0, 6)])])])
    for name in ("one.gz", "two.gz"):
        export(trace, tmp_path / name)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.gz").read_bytes()).count(b"\n") == 2


def test_nothing_is_left_behind_when_the_trace_is_bad(tmp_path: Path) -> None:
    trace = stored(tmp_path, [Workflow("w", "demo", None, [call(0, [(0, 6)]), call(0, [(0, 6)])])])
    with pytest.raises(TraceError):
        export(trace, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.parquet"]


def test_an_existing_file_a_missing_folder_and_a_bad_block_size_are_refused(tmp_path: Path) -> None:
    trace = stored(tmp_path, [Workflow("w", "demo", None, [call(0, [(0, 6)])])])
    with pytest.raises(ConfigError, match="--force"):
        export(trace, trace.path)
    with pytest.raises(ConfigError, match="existing folder"):
        export(trace, tmp_path / "no" / "out.jsonl")
    with pytest.raises(ConfigError, match="block size"):
        export(trace, tmp_path / "out.jsonl", block_size=0)


def test_the_benchmark_trace_keeps_its_distinct_blocks(shared_bench: Path, tmp_path: Path) -> None:
    path = tmp_path / "agent20k.parquet"
    write_trace(path, *importers.read(shared_bench / "agent20k.v2.jsonl.gz"))
    out = tmp_path / "out.jsonl"
    export(Trace(path), out)
    rows = [json.loads(line) for line in out.read_text().splitlines()[1:]]
    assert sum(len(row["hash_ids"]) for row in rows) == 2_754_968
    assert max(max(row["hash_ids"]) for row in rows) == 240_421 - 1
