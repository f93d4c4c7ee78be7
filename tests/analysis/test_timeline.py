"""The timeline: valid JSON, slices that nest, and times and counts that are the records'."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pbkv.analysis.load import load
from pbkv.analysis.timeline import write_timeline
from pbkv.traces.errors import ConfigError, TraceError

WriteRun = Callable[..., Path]
Event = dict[str, Any]


def _events(folder: Path, cell: int | None = None) -> list[Event]:
    out = folder.parent / "trace.json"
    count = write_timeline(load(folder), out, cell)
    events: list[Event] = json.loads(out.read_text())["traceEvents"]
    assert len(events) == count
    return events


def _slices(events: list[Event], pid: int = 1) -> list[Event]:
    return [event for event in events if event["ph"] == "X" and event["pid"] == pid]


def test_every_call_is_there_with_its_times(write_run: WriteRun) -> None:
    folder = write_run([{"policy": "lru"}, {"policy": "lae"}])
    calls = load(folder).calls.query("cell == 1").sort_values("submitted_at_s")
    found = [event for event in _slices(_events(folder, 1)) if "call" in event.get("args", {})]
    found.sort(key=lambda event: event["ts"])
    assert [event["name"] for event in found] == calls.agent.tolist()
    assert [event["ts"] / 1e6 for event in found] == pytest.approx(calls.submitted_at_s.tolist(), abs=1e-8)
    ends = [(event["ts"] + event["dur"]) / 1e6 for event in found]
    assert ends == pytest.approx(calls.ended_at_s.tolist(), abs=1e-8)
    assert [event["args"]["evicted tokens"] for event in found] == calls.num_evicted_tokens.tolist()


def _overlap(events: list[Event]) -> bool:
    """Whether two slices of a track overlap without one lying in the other."""
    tracks: defaultdict[Any, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        tracks[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in tracks.values():
        open_ends: list[float] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ends and open_ends[-1] <= start + 1e-3:
                open_ends.pop()
            if open_ends and end > open_ends[-1] + 1e-3:
                return True
            open_ends.append(end)
    return False


def test_slices_of_a_track_nest_even_where_calls_run_side_by_side(write_run: WriteRun) -> None:
    def side_by_side(tables: dict[str, list[dict[str, Any]]]) -> None:
        for call in tables["calls"]:
            if call["workflow_id"] == "w0":
                call |= {"submitted_at_s": 1.0 + call["call_index"], "admitted_at_s": 6.0}
                call |= {"first_token_at_s": 7.0, "ended_at_s": 9.0 + call["call_index"]}
        for workflow in tables["workflows"]:
            if workflow["workflow_id"] == "w0":
                workflow |= {"released_at_s": 1.0, "ended_at_s": 9.0 + workflow["num_calls"] - 1}

    folder = write_run([{}], edit=side_by_side)
    num_calls = int((load(folder).calls.workflow_id == "w0").sum())
    events = _events(folder)
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == 1}
    assert [name.partition(" ")[0] for name in names.values()].count("w0") == num_calls > 1
    assert not _overlap(_slices(events))


def test_counters_are_the_samples(write_run: WriteRun) -> None:
    folder = write_run([{}])
    samples = load(folder).occupancy
    counters = [event for event in _events(folder) if event["ph"] == "C"]
    blocks = [event["args"]["used"] for event in counters if event["name"] == "GPU blocks"]
    assert blocks == samples.gpu_used_blocks.tolist()
    ratios = [event["args"]["hit"] for event in counters if event["name"].startswith("hit ratio")]
    expected = 100 * samples.num_hit_tokens / samples.num_seen_prompt_tokens
    assert ratios == pytest.approx(expected.tolist(), abs=1e-3)


def test_what_cannot_be_written_is_said(write_run: WriteRun, tmp_path: Path) -> None:
    run = load(write_run([{}]))
    with pytest.raises(ConfigError, match="cell: got 7, expected a cell of the run: 0"):
        write_timeline(run, tmp_path / "trace.json", 7)
    with pytest.raises(ConfigError, match="a file in an existing folder"):
        write_timeline(run, tmp_path / "no" / "trace.json")
    assert not list(tmp_path.glob("*.json"))


def test_a_table_that_is_cut_off_leaves_nothing_half_written(write_run: WriteRun, tmp_path: Path) -> None:
    folder = write_run([{"policy": "lru"}], "cut")
    calls = folder / "calls.parquet"
    calls.write_bytes(calls.read_bytes()[:300])
    (out := tmp_path / "out").mkdir()
    with pytest.raises(TraceError, match="complete Parquet file"):
        write_timeline(load(folder), out / "timeline.json")
    assert list(out.iterdir()) == []
