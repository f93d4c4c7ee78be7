"""The agent JSONL format: what becomes of a line, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pbkv.traces import importers
from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.schema import Workflow

SYSTEM = {"id": "sys", "tokens": 10, "kind": "system"}


def line(index: int = 0, **changes: Any) -> dict[str, Any]:
    parents = [index - 1] if index else []
    fields = {
        "workflow_id": "w",
        "app": "demo",
        "call_index": index,
        "agent": "planner",
        "parent_call_indices": parents,
        "arrival_s": None,
        "gap_s": None,
        "duration_s": None,
        "segments": [SYSTEM],
        "output_tokens": 5,
        "output_id": None,
    }
    return fields | changes


def written(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(fields) + "\n" for fields in lines))
    return path


def imported(path: Path) -> list[Workflow]:
    workflows, _ = importers.read(path)
    return list(workflows)


def refused(path: Path) -> TraceError:
    with pytest.raises(TraceError) as caught:
        imported(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_ids_are_numbered_as_first_seen_and_an_answer_shares_its_segments_id(tmp_path: Path) -> None:
    answer = {"id": "a0", "tokens": 9, "kind": "output"}
    trace = written(tmp_path / "t", line(0, output_id="a0"), line(1, segments=[SYSTEM, answer]))
    (workflow,) = imported(trace)
    assert [list(call.segment_ids) for call in workflow.calls] == [[0], [0, 1]]
    assert [call.output_id for call in workflow.calls] == [1, None]
    assert list(workflow.calls[1].segment_kinds or ()) == ["system", "output"]


@pytest.mark.parametrize(
    ("kind", "num_tokens", "expected"), [("output", 5, 1), ("output", 6, None), ("tool", 5, None)]
)
def test_an_unlogged_answer_is_found_in_the_next_prompt_only_beyond_doubt(
    tmp_path: Path, kind: str, num_tokens: int, expected: int | None
) -> None:
    behind = {"id": "new", "tokens": num_tokens, "kind": kind}
    (workflow,) = imported(written(tmp_path / "t", line(0), line(1, segments=[SYSTEM, behind])))
    assert workflow.calls[0].output_id == expected


def test_a_logged_gap_stands_and_a_missing_one_is_rebuilt_from_logged_times(tmp_path: Path) -> None:
    trace = written(
        tmp_path / "t",
        line(0, arrival_s=0.0, duration_s=2.0),
        line(1, arrival_s=3.5, duration_s=1.0),
        line(2, arrival_s=9.0, gap_s=0.25),
        line(3, arrival_s=10.0),
    )
    (workflow,) = imported(trace)
    gaps = [(call.tool_gap_s, call.tool_gap_origin) for call in workflow.calls]
    assert gaps == [(0.0, "rebuilt"), (1.5, "rebuilt"), (0.25, "logged"), (None, None)]
    assert workflow.arrival_s is None


def test_a_start_before_the_parents_end_gives_no_gap(tmp_path: Path) -> None:
    trace = written(tmp_path / "t", line(0, arrival_s=0.0, duration_s=2.0), line(1, arrival_s=1.0))
    assert imported(trace)[0].calls[1].tool_gap_s is None


def test_where_only_the_root_has_a_time_it_is_the_workflows_arrival(tmp_path: Path) -> None:
    trace = written(tmp_path / "t", line(0, arrival_s=7.5), line(1))
    assert imported(trace)[0].arrival_s == 7.5


def test_sub_agents_keep_their_parents(tmp_path: Path) -> None:
    fork = [line(0), line(1), line(2, parent_call_indices=[0]), line(3, parent_call_indices=[1, 2])]
    (workflow,) = imported(written(tmp_path / "t", *fork))
    assert [tuple(call.parent_indices) for call in workflow.calls] == [(), (0,), (0,), (1, 2)]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"output_tokens": -1}, "line 1: output_tokens"),
        ({"output_tokens": 2.5}, "line 1: output_tokens"),
        ({"gap_s": float("nan")}, "line 1: gap_s"),
        ({"gap_s": -1.0}, "line 1: gap_s"),
        ({"arrival_s": "soon"}, "line 1: arrival_s"),
        ({"agent": ""}, "line 1: agent"),
        ({"agent": "\ud800"}, "line 1: agent"),
        ({"segments": []}, "line 1: segments"),
        ({"segments": [{"id": "a", "tokens": 0, "kind": "tool"}]}, "line 1: segments[0].tokens"),
        ({"segments": [{"id": "a", "tokens": 1, "kind": "poem"}]}, "line 1: segments[0].kind"),
        ({"segments": [SYSTEM, SYSTEM | {"tokens": 11}]}, "line 1: segments[1].tokens"),
        ({"segments": ["sys"]}, "line 1: segments[0]"),
        ({"segments": [{"id": 3, "tokens": 1, "kind": "tool"}]}, "line 1: segments[0].id"),
        ({"parent_call_indices": [7]}, "line 1: parent_call_indices"),
        ({"parent_call_indices": [0]}, "line 1: parent_call_indices"),
        ({"parent_call_indices": 0}, "line 1: parent_call_indices"),
        ({"call_index": 3}, "line 1: call_index"),
    ],
)
def test_a_bad_value_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    assert refused(written(tmp_path / "t", line(0, **changes))).field == field


@pytest.mark.parametrize("name", ["app", "agent", "output_tokens", "parent_call_indices"])
def test_a_missing_field_is_named(tmp_path: Path, name: str) -> None:
    fields = line(0)
    del fields[name]
    error = refused(written(tmp_path / "t", fields))
    assert error.field == f"line 1: {name}"
    assert "missing" in str(error)


def test_a_cycle_of_parents_is_refused(tmp_path: Path) -> None:
    error = refused(written(tmp_path / "t", line(0, parent_call_indices=[1]), line(1)))
    assert "cycle" in str(error)


def test_the_lines_of_a_workflow_must_lie_together(tmp_path: Path) -> None:
    trace = written(tmp_path / "t", line(0), line(0, workflow_id="v"), line(1))
    assert refused(trace).field == "line 3: workflow_id"


def test_broken_json_is_named_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path / "t", line(0))
    path.write_text(path.read_text() + "\n{oops\n")
    assert refused(path).field == "line 3"


def test_gzip_is_told_from_content_and_a_truncated_one_refused(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(line(i)) + "\n" for i in range(2000)).encode())
    path = tmp_path / "no-suffix"
    path.write_bytes(whole)
    assert len(imported(path)[0].calls) == 2000
    path.write_bytes(whole[: len(whole) // 2])
    assert "complete gzip" in str(refused(path))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"hello\n", b"{}\n", b"[1]\n", b"\xff\xfe\x00"])
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    refused(path)


def test_bytes_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t", line(0))
    path.write_bytes(path.read_bytes() + b'{"agent": "\xff"}\n')
    assert "UTF-8" in str(refused(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path)


def test_unknown_formats_and_senseless_block_sizes_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t", line(0))
    with pytest.raises(ConfigError, match="format"):
        importers.read(path, format_name="csv")
    with pytest.raises(ConfigError, match="block size"):
        importers.read(path, block_size=16)


def test_every_next_prompt_of_the_swe_agents_shows_the_answer(shared_data: Path) -> None:
    calls = [call for w in imported(shared_data / "sweagent_glm45_vllm.jsonl.gz") for call in w.calls]
    assert sum(call.output_id is not None for call in calls) == 5655
