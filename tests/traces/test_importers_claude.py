"""Claude Code session logs: sub-agents, compaction, parallel tools, and logs that are not in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pbkv.traces import importers
from pbkv.traces.errors import TraceError
from pbkv.traces.schema import Workflow

Record = dict[str, Any]
SESSION = "7f3c2a10-0000-4000-8000-000000000001"


def _record(kind: str, uuid: str, parent: str | None, second: float, **more: Any) -> Record:
    at = f"2026-11-25T08:{int(second) // 60:02d}:{second % 60:06.3f}Z"
    base = {"type": kind, "uuid": uuid, "parentUuid": parent, "timestamp": at, "sessionId": SESSION}
    return {**base, "isSidechain": False, "version": "2.1.37", "cwd": "/work", "userType": "external", **more}


def user(uuid: str, parent: str | None, second: float, content: Any, **more: Any) -> Record:
    return _record("user", uuid, parent, second, message={"role": "user", "content": content}, **more)


def result(uuid: str, parent: str, second: float, use: str, text: str, **more: Any) -> Record:
    block = {"type": "tool_result", "tool_use_id": use, "content": [{"type": "text", "text": text}]}
    return user(uuid, parent, second, [block], **more)


def answer(
    uuid: str, parent: str | None, second: float, key: str, block: Record, prompt: int, out: int, **more: Any
) -> Record:
    usage = {"input_tokens": 3, "cache_read_input_tokens": prompt - 3, "output_tokens": out}
    usage["cache_creation_input_tokens"] = 0
    message = {"id": key, "role": "assistant", "model": "claude", "content": [block], "usage": usage}
    return _record("assistant", uuid, parent, second, message=message, requestId=f"req_{key}", **more)


def text(words: str) -> Record:
    return {"type": "text", "text": words}


def use(key: str, tool: str, **given: str) -> Record:
    return {"type": "tool_use", "id": key, "name": tool, "input": given}


def main_log() -> list[Record]:
    """A question; two tools at once and a sub-agent; then a compaction and one more question."""
    task = {"subagent_type": "Explore", "description": "look", "prompt": "find the tests"}
    return [
        {"type": "summary", "summary": "tests", "leafUuid": "a9"},
        user("u1", None, 0, "Please find the tests."),
        answer("a1", "u1", 2, "msg_1", text("I look."), 5000, 40),
        answer("a2", "a1", 3, "msg_1", use("t1", "Bash", command="ls"), 5000, 40),
        result("r1", "a2", 4, "t1", "a.py b.py"),
        answer("a3", "a2", 5, "msg_1", use("t2", "Read", path="a.py"), 5000, 40),
        result("r2", "a3", 6, "t2", "import b"),
        answer("a4", "r2", 8, "msg_2", use("t3", "Task", **task), 5100, 60),
        result("r3", "a4", 30, "t3", "three tests", toolUseResult={"agentId": "ab12", "status": "completed"}),
        answer("a5", "r3", 33, "msg_3", text("There are three."), 5300, 20),
        _record("system", "s1", None, 40, subtype="compact_boundary", logicalParentUuid="a5"),
        user("u2", "s1", 40, "So far: three tests.", isCompactSummary=True),
        user("u3", "u2", 50, "Run them."),
        answer("a6", "u3", 52, "msg_4", text("They pass."), 5050, 10),
    ]


def agent_log() -> list[Record]:
    more = {"isSidechain": True, "agentId": "ab12"}
    return [
        user("x1", None, 9, "find the tests", **more),
        answer("x2", "x1", 12, "msg_s1", use("t9", "Grep", pattern="test"), 3000, 30, **more),
        result("x3", "x2", 14, "t9", "3 hits", **more),
        answer("x4", "x3", 20, "msg_s2", text("three tests"), 3050, 15, **more),
    ]


def write(path: Path, records: list[Record]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def _project(folder: Path) -> Path:
    write(folder / f"{SESSION}.jsonl", main_log())
    write(folder / SESSION / "subagents" / "agent-ab12.jsonl", agent_log())
    return folder


def _read(path: Path) -> tuple[list[Workflow], dict[str, int]]:
    workflows, metadata = importers.read(path)
    found = list(workflows)
    counts = metadata.extra["counts"]
    assert isinstance(counts, dict)
    return found, dict(counts)


def test_a_session_with_a_sub_agent_is_one_workflow_with_a_join(tmp_path: Path) -> None:
    assert importers.recognise(_project(tmp_path)) == "claude-code"
    (workflow,), counts = _read(tmp_path)
    calls = workflow.calls
    assert (workflow.workflow_id, workflow.arrival_s) == (SESSION, 0.0)
    assert [call.agent for call in calls] == ["main", "main", "Explore", "Explore", "main", "main"]
    assert [list(call.parent_indices) for call in calls] == [[], [0], [1], [2], [1, 3], [4]]
    assert [call.num_output_tokens for call in calls] == [40, 60, 30, 15, 20, 10]
    waits = [call.tool_gap_s for call in calls]
    assert waits == pytest.approx([0.0, 1.0, 1.0, 2.0, 10.0, 17.0])
    assert counts == {
        "stand-ins for system prompt and tools": 2,
        "compactions (the call that summed up is not in the log)": 1,
    }


def test_prompts_go_on_with_answers_and_all_parallel_results(tmp_path: Path) -> None:
    (workflow,), _ = _read(_project(tmp_path))
    first, second, explore, _, third, compacted = workflow.calls
    assert first.num_prompt_tokens == 5000  # as the log says: the stand-in makes up for what it leaves out
    kinds = [kind for kind, _ in groupby(second.segment_kinds or ())]
    assert kinds == ["system", "user", "output", "tool"]
    num_first, num_second = len(first.segment_ids), len(second.segment_ids)
    assert list(second.segment_ids[:num_first]) == list(first.segment_ids)
    assert (first.output_id, second.segment_tokens[num_first]) == (second.segment_ids[num_first], 40)
    assert list(third.segment_ids[:num_second]) == list(second.segment_ids)
    assert compacted.segment_ids[0] == first.segment_ids[0]
    assert compacted.segment_ids[2] != first.segment_ids[2]  # [1] is the frame of a user's message
    assert set(explore.segment_ids).isdisjoint(first.segment_ids)


@pytest.mark.parametrize("with_agent_id", [True, False])
def test_sidechains_may_stand_in_the_sessions_own_file(tmp_path: Path, with_agent_id: bool) -> None:
    inner = [{k: v for k, v in record.items() if with_agent_id or k != "agentId"} for record in agent_log()]
    records = main_log()
    records[8].pop("toolUseResult")
    log = write(tmp_path / f"{SESSION}.jsonl", [*records[:8], *inner, *records[8:]])
    (workflow,), _ = _read(log)
    assert [list(call.parent_indices) for call in workflow.calls] == [[], [0], [1], [2], [1, 3], [4]]
    assert workflow.calls[2].agent == "Explore"


def test_a_resumed_session_does_not_repeat_its_calls(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", main_log()[1:7])
    more = [user("n1", "r2", 100, "go on"), answer("n2", "n1", 103, "msg_9", text("done"), 5200, 5)]
    write(tmp_path / "two.jsonl", [*main_log()[1:7], *more])
    (one, two), counts = _read(tmp_path)
    assert [len(one.calls), len(two.calls)] == [1, 1]
    assert counts["responses repeated from another session"] == 1


def _cut(lines: list[str]) -> list[str]:
    return [*lines[:-1], lines[-1][:50]]


def _late(lines: list[str]) -> list[str]:
    return [line.replace("T08:00:3", "T07:00:3") for line in lines]


DAMAGES: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "a cut last line": (_cut, "cut last line left out"),
    "a line of another type": (lambda lines: ["[1, 2]", *lines], "unreadable lines left out"),
    "bytes that are no text": (lambda lines: ["\x00\x01", *lines], "unreadable lines left out"),
    "a clock that goes back": (_late, "waits unknown (clock went backwards)"),
    "records twice": (lambda lines: [*lines, *lines], "records with a known uuid left out"),
    "a missing parent": (lambda lines: [*lines[:1], *lines[2:]], "records whose parent is not in the log"),
    "a type of tomorrow": (lambda lines: ['{"type": "dream"}', *lines], "records of type dream left out"),
    "wrong types": (lambda lines: ['{"type": "user", "uuid": 7, "message": []}', *lines], "records without"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_counted(tmp_path: Path, damage: str) -> None:
    change, expected = DAMAGES[damage]
    log = tmp_path / f"{SESSION}.jsonl"
    log.write_text("\n".join(change([json.dumps(record) for record in main_log()])))
    (workflow,), counts = _read(log)
    assert len(workflow.calls) >= 3
    assert any(name.startswith(expected) and number for name, number in counts.items()), counts


def test_a_log_without_a_response_is_an_error(tmp_path: Path) -> None:
    log = write(tmp_path / "empty.jsonl", main_log()[1:2])
    with pytest.raises(TraceError, match="at least one call"):
        importers.read(log)
