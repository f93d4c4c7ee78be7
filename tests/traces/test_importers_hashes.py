"""Logs of block hashes: Weka sessions, agentic Mooncake v1, LMCache lookups, vLLM KV events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pbkv.traces import importers
from pbkv.traces.errors import TraceError
from pbkv.traces.schema import Workflow

Json = dict[str, Any]


def _read(path: Path, **options: Any) -> tuple[list[Workflow], dict[str, int]]:
    workflows, metadata = importers.read(path, **options)
    found = list(workflows)
    counts = metadata.extra["counts"]
    assert isinstance(counts, dict)
    return found, dict(counts)


def lines(path: Path, *values: Any) -> Path:
    path.write_text("\n".join(value if isinstance(value, str) else json.dumps(value) for value in values))
    return path


def weka_session(key: str = "s1") -> Json:
    def call(at: float, num_tokens: int, ids: list[int], think: float | None, out: int = 5) -> Json:
        timed = {"api_time": 1.0} if think is None else {"api_time": 1.0, "think_time": think}
        return {"t": at, "type": "s", "model": "m", "in": num_tokens, "out": out, "hash_ids": ids, **timed}

    inner = [call(0.5, 64, [9], 0.0), call(2.0, 130, [9, 10, 11], 0.5)]
    agent = {"type": "subagent", "t": 3.0, "agent_id": "a", "subagent_type": "Explore", "requests": inner}
    requests = [call(0, 64, [1], 0.0), call(2, 140, [1, 2], 1.0), agent, call(9, 200, [1, 2, 3, 4], None)]
    return {"id": key, "block_size": 64, "hash_id_scope": "local", "tool_tokens": 9, "requests": requests}


def test_a_weka_session_waits_for_its_sub_agents(tmp_path: Path) -> None:
    for key in ("s1", "s2"):
        (tmp_path / f"{key}.json").write_text(json.dumps(weka_session(key), indent=1))
    assert importers.recognise(tmp_path) == importers.recognise(tmp_path / "s1.json") == "weka"
    (one, two), counts = _read(tmp_path)
    assert (one.workflow_id, two.workflow_id, one.arrival_s) == ("s1", "s2", None)
    assert sorted(call.agent for call in one.calls) == ["Explore", "Explore", "main", "main", "main"]
    last = one.calls[-1]
    assert len(last.parent_indices) == 2
    assert [call.num_prompt_tokens for call in one.calls if call.agent == "main"] == [64, 140, 200]
    main = [call for call in one.calls if call.agent == "main"]
    assert main[1].segment_ids[0] == main[0].segment_ids[0]
    assert set(main[0].segment_ids).isdisjoint(two.calls[0].segment_ids)
    assert main[1].tool_gap_s == 1.0
    assert set(counts) == {"waits unknown"}


def test_bad_weka_sessions_are_counted(tmp_path: Path) -> None:
    odd = weka_session("odd")
    odd["requests"] += [
        {"type": "z"},
        {"type": "n", "in": 64, "hash_ids": ["x"]},
        7,
        {"type": "n", "in": 9999, "hash_ids": [1]},
    ]
    log = lines(tmp_path / "w.jsonl", odd, odd, "nonsense", '{"id": "cut", "reque')
    (workflow,), counts = _read(log)
    assert len(workflow.calls) == 6
    assert counts["sessions with a known id left out"] == counts["cut last line left out"] == 1
    assert counts["requests of type unknown left out"] == counts["requests without a prompt left out"] == 1
    assert counts["prompts whose length is not that of their blocks"] == 1


def _row(key: str, *, ids: list[int], waits: list[str] | None = None, **more: Any) -> Json:
    row = {"request_id": key, "input_tokens": 8 * len(ids), "output_length": 3, "hash_ids": ids, **more}
    return {**row, "wait_for": waits} if waits else {**row, "timestamp": 1000.0}


def test_agentic_mooncake_v1_rows_wait_for_each_other(tmp_path: Path) -> None:
    rows = [
        _row("a", ids=[1, 2], session_id="main"),
        _row("b", ids=[1, 3], waits=["a"], session_id="sub", delay=10, tool_wait_ms=20),
        _row("c", ids=[1, 2, 4], waits=["a", "b"], session_id="main", delay_ms=5),
        _row("d", ids=[7]),
    ]
    log = lines(tmp_path / "v1.jsonl", *rows)
    assert importers.recognise(log) == "mooncake-v1"
    (one, two), _ = _read(log)
    assert [list(call.parent_indices) for call in one.calls] == [[], [0], [0, 1]]
    assert [call.agent for call in one.calls] == ["agent", "sub-agent", "agent"]
    assert [call.tool_gap_s for call in one.calls] == pytest.approx([0.0, 0.03, 0.005])
    assert len(two.calls) == 1


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (_row("a", ids=[1]), "an id that no other row has"),
        (_row("b", ids=[1], waits=["z"]), "the request_id of a row"),
        (_row("b", ids=[1], wait_for=[7]), "request ids"),
        (_row("b", ids=[-1]), "whole numbers"),
        ('{"request_id": "b", "hash', "a JSON object"),
    ],
)
def test_a_bad_mooncake_v1_row_is_one_clear_error(tmp_path: Path, row: Any, expected: str) -> None:
    log = lines(tmp_path / "v1.jsonl", _row("a", ids=[1]), row)
    with pytest.raises(TraceError, match=expected):
        importers.read(log)


def test_a_circle_of_waits_is_broken_and_counted(tmp_path: Path) -> None:
    log = lines(tmp_path / "v1.jsonl", _row("a", ids=[1], waits=["b"]), _row("b", ids=[1], waits=["a"]))
    (workflow,), counts = _read(log, block_size=8)
    assert [list(call.parent_indices) for call in workflow.calls] == [[], [0]]
    assert counts["dependencies in a circle left out"] == 1


def lookup(key: str, second: float, *hashes: str) -> Json:
    return {"timestamp": 1.7e9 + second, "lookup_id": key, "chunk_hashes": list(hashes)}


def test_lookups_are_calls_that_share_chunks(tmp_path: Path) -> None:
    log = tmp_path / "chunk_hashes_1700000000_000000.jsonl"
    rows = [lookup("a", 0, "0xf1", "0xf2"), lookup("b", 2, "0xf1", "0xf3"), lookup("a", 3, "0xf1")]
    lines(log, *rows, {"lookup_id": 3}, '{"timest')
    assert importers.recognise(log) == importers.recognise(tmp_path) == "lmcache"
    (one, two), counts = _read(tmp_path)
    assert [one.arrival_s, two.arrival_s] == [0.0, 2.0]
    assert one.calls[0].segment_ids[0] == two.calls[0].segment_ids[0]
    assert one.calls[0].num_prompt_tokens == 512
    assert _read(log, block_size=16)[0][0].calls[0].num_prompt_tokens == 32
    assert counts == {
        "lookups repeated for one request left out": 1,
        "lookups without id or chunks left out": 1,
        "cut last line left out": 1,
        "answers of unknown length taken as 1 token": 2,
    }


def stored(parent: object, *hashes: object, size: int = 16) -> Json:
    tokens = list(range(size * len(hashes)))
    return {
        "type": "BlockStored",
        "block_hashes": list(hashes),
        "parent_block_hash": parent,
        "token_ids": tokens,
        "block_size": size,
    }


def event_lines() -> list[Json]:
    old = ["BlockStored", ["e"], "d", [1] * 16, 16, None]
    return [
        {"ts": 10.0, "events": [stored(None, "a", "b"), stored(None, "x")]},
        {"ts": 10.5, "events": [stored("b", "c"), {"type": "BlockRemoved", "block_hashes": ["x"]}]},
        {"ts": 11.0, "events": [stored("a", "d"), old]},
    ]


def test_runs_of_stored_blocks_are_calls(tmp_path: Path) -> None:
    log = lines(tmp_path / "events.jsonl", *event_lines())
    assert importers.recognise(log) == "vllm-events"
    workflows, counts = _read(log)
    assert [workflow.calls[0].num_prompt_tokens for workflow in workflows] == [48, 16, 48]
    assert workflows[0].calls[0].segment_ids[0] == workflows[2].calls[0].segment_ids[0]
    assert [workflow.arrival_s for workflow in workflows] == [0.0, 0.0, 1.0]
    assert counts == {"answers not told from prompts (1 token each)": 3}


def test_bad_events_are_counted(tmp_path: Path) -> None:
    odd = {"ts": "x", "events": [stored("gone", "q"), stored(None, "r", size=32), 7, {"type": "BlockStored"}]}
    log = lines(tmp_path / "events.jsonl", *event_lines(), odd, "{", '{"ts": 1, "ev')
    workflows, counts = _read(log)
    assert len(workflows) == 4
    assert (
        counts["blocks whose prefix is not in the log"]
        == counts["events of another block size left out"]
        == 1
    )
    assert counts["events of another kind left out"] == 1
    assert counts["events without hashes or block size left out"] == 1
