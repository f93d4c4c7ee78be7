"""A cell as a trace that Perfetto and chrome://tracing open: the JSON trace event format.

    workflows   a track each (more, where its calls overlap): the workflow, in it its calls, each with its
                phases waiting (until admitted), prefill (until the first token) and decode
    link        three tracks: every load, prefetch and offload
    engine      counters: requests, blocks of both tiers, live workflows, hit ratio so far

Times are microseconds of simulated (or replayed) time. Only what the tables have is written; numbers of a
call (tokens by class) stand in its arguments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pbkv.analysis.load import Cell, Run
from pbkv.analysis.sums import TOKEN_CLASSES
from pbkv.traces.errors import ConfigError
from pbkv.traces.temporary import replacing

Event = dict[str, Any]
_WORKFLOWS, _LINK, _ENGINE = 1, 2, 3
_LINK_TRACKS = {
    "load": (1, "host to GPU"),
    "prefetch": (2, "host to GPU, ahead of need"),  # in slices, while nothing urgent is copied
    "offload": (3, "GPU to host"),
}
_PHASES = ("waiting", "prefill", "decode")
_COUNTERS = {
    "requests": {"running": "num_running", "waiting": "num_waiting"},
    "live workflows": {"live": "num_live_workflows"},
    "GPU blocks": {"used": "gpu_used_blocks", "cached": "gpu_cached_blocks"},
    "host blocks": {"used": "host_used_blocks"},
}


def write_timeline(run: Run, output: Path, cell: int | None = None) -> int:
    """Write ``cell`` (default: the run's first) to ``output``, replaced when whole; how many events.

    Raises ConfigError for a cell that the run does not have.
    """
    chosen = _chosen(run, cell)
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ConfigError("output", str(output), "a file in an existing folder")
    with replacing(output) as file:
        return _write(timeline_events(run, chosen), file)


def _write(events: Iterator[Event], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        for event in events:
            line = json.dumps(event, separators=(",", ":"), allow_nan=False)
            file.write(line if count == 0 else f",\n{line}")
            count += 1
        file.write("\n]}\n")
    return count


def timeline_events(run: Run, cell: Cell) -> Iterator[Event]:
    """The events of a cell, by track."""
    yield _name(_WORKFLOWS, "process_name", f"workflows · {cell.setting.label}")
    yield from _workflow_events(run, cell)
    if run.has("cache_events"):
        yield from _link_events(_of(run.cache_events, cell))
    yield from _counter_events(_of(run.occupancy, cell))


def _chosen(run: Run, cell: int | None) -> Cell:
    known = {found.cell: found for found in run.cells}
    if cell is None:
        return run.cells[0]
    if cell not in known:
        raise ConfigError("cell", cell, f"a cell of the run: {', '.join(map(str, known))}")
    return known[cell]


def _of(frame: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    return frame[frame["cell"] == cell.cell]


def _workflow_events(run: Run, cell: Cell) -> Iterator[Event]:
    calls = dict(list(_of(run.calls, cell).groupby("workflow_id", sort=False)))
    workflows = _of(run.workflows, cell).sort_values(["released_at_s", "workflow_id"])
    track = 1
    for workflow in workflows.to_dict("records"):
        name = str(workflow["workflow_id"])
        arguments = {"app": workflow["app"], "num_calls": workflow["num_calls"]}
        yield _slice(track, name, workflow["released_at_s"], workflow["ended_at_s"], arguments)
        placed = list(_lanes(calls[name]))
        num_lanes = 1 + max(lane for lane, _ in placed)
        for lane in range(num_lanes):
            beside = f" · {lane + 1}" if lane else ""
            yield _name(_WORKFLOWS, "thread_name", f"{name}{beside}", track + lane)
        for lane, call in placed:
            yield from _call_events(track + lane, call)
        track += num_lanes


def _lanes(calls: pd.DataFrame) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    """The calls of a workflow, each with the first of its tracks that is free."""
    busy_until_s: list[float] = []
    for call in calls.sort_values(["submitted_at_s", "call_index"]).to_dict("records"):
        free = [lane for lane, end_s in enumerate(busy_until_s) if end_s <= call["submitted_at_s"]]
        lane = free[0] if free else len(busy_until_s)
        busy_until_s[lane : lane + 1] = [call["ended_at_s"]]
        yield lane, call


def _call_events(track: int, call: Mapping[Any, Any]) -> Iterator[Event]:
    tokens = {f"{name} tokens": call[f"num_{name}_tokens"] for name in TOKEN_CLASSES}
    arguments = {"call": call["call_index"], "prompt tokens": call["num_prompt_tokens"]}
    arguments |= {
        "output tokens": call["num_output_tokens"],
        **tokens,
        "preemptions": call["num_preemptions"],
    }
    yield _slice(track, str(call["agent"]), call["submitted_at_s"], call["ended_at_s"], arguments)
    instants = [call[f"{name}_at_s"] for name in ("submitted", "admitted", "first_token", "ended")]
    if all(map(_is_finite, instants)):
        for phase, start_s, end_s in zip(
            ("waiting", "prefill", "decode"), instants, instants[1:], strict=False
        ):
            if end_s > start_s:
                yield _slice(track, phase, start_s, end_s)


def _link_events(events: pd.DataFrame) -> Iterator[Event]:
    copies = events[events["copy_s"].notna()]
    yield _name(_LINK, "process_name", "link")
    for number, direction in _LINK_TRACKS.values():
        yield _name(_LINK, "thread_name", direction, number)
    for copy in copies.to_dict("records"):
        start_s = copy["at_s"] + copy["queued_s"]
        arguments = {name: copy[name] for name in ("num_blocks", "num_bytes", "reason")}
        arguments |= {"workflow": copy["workflow_id"], "queued ms": 1e3 * copy["queued_s"]}
        number, _ = _LINK_TRACKS[copy["kind"]]
        yield _slice(number, copy["kind"], start_s, start_s + copy["copy_s"], arguments, _LINK)


def _counter_events(samples: pd.DataFrame) -> Iterator[Event]:
    yield _name(_ENGINE, "process_name", "engine")
    for sample in samples.to_dict("records"):
        at_us = _us(sample["at_s"])
        for counter, columns in _COUNTERS.items():
            values = {name: sample[column] for name, column in columns.items()}
            yield {"ph": "C", "pid": _ENGINE, "name": counter, "ts": at_us, "args": _known(values)}
        if sample["num_seen_prompt_tokens"]:
            ratio = 100 * sample["num_hit_tokens"] / sample["num_seen_prompt_tokens"]
            event = {"ph": "C", "pid": _ENGINE, "name": "hit ratio so far (%)", "ts": at_us}
            yield event | {"args": {"hit": round(ratio, 3)}}


def _slice(
    track: int,
    name: str,
    start_s: float,
    end_s: float,
    arguments: Mapping[str, Any] | None = None,
    pid: int = _WORKFLOWS,
) -> Event:
    """Ends are rounded, not lengths: what follows without a gap does so here too."""
    start_us = _us(start_s)
    event: Event = {"ph": "X", "pid": pid, "tid": track, "name": name, "ts": start_us}
    event["dur"] = round(_us(end_s) - start_us, 3)
    return event if arguments is None else event | {"args": _known(arguments)}


def _name(pid: int, kind: str, name: str, track: int = 0) -> Event:
    return {"ph": "M", "pid": pid, "tid": track, "name": kind, "args": {"name": name}}


def _us(at_s: float) -> float:
    return round(1e6 * at_s, 3)


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the tables leave open: JSON has no NaN."""
    return {
        name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)
    }
