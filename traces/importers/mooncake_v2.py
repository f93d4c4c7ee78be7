"""The agentic Mooncake format, version 2: a header line, then one request a row with its dependencies.

A play is a workflow. A session ``play:role`` names the agent; any other session is called "agent" if the
play begins in it and "sub-agent" otherwise. A call starts ``delay_ms`` after the end of each request it
depends on; the trace keeps one gap, from the end of the last parent, so where the delays of a call
differ the longest stands. A root's gap counts from the workflow's arrival, which is that of its first
root. What is lost (differing delays; ``not_before_ms`` of calls with dependencies, that is to say clock
times of the recording) is counted in the metadata. Output ids are null, and prompts are compressed to
segments (see ``block_prompts``), for which all rows but for their hashes are held in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

from pbkv.traces.errors import TraceError
from pbkv.traces.importers.block_prompts import BlockPrompts
from pbkv.traces.importers.lines import Row, is_object_with, rows
from pbkv.traces.schema import Call, TraceMetadata, Workflow

NAME = "mooncake-v2"
SCHEMA_NAME = "dynamo.agentic_mooncake"
VERSION = 2


@dataclass(frozen=True, slots=True)
class _Request:
    row: Row
    request_id: str
    play_id: str
    session_id: str
    not_before_s: float
    parent_ids: tuple[str, ...]
    delays_s: tuple[float, ...]
    num_output_tokens: int
    prompt: int


def recognises(line: str) -> bool:
    return is_object_with(line, "schema", "version", "block_size")


def read(path: Path, block_size: int | None = None) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The plays by arrival (ties in file order). ``block_size`` overrides that of the header.

    Raises TraceError for a bad header or row, and for dependencies that are unknown, in a cycle, in
    another play, or triggered by anything but completion.
    """
    lines = rows(path)
    header = next(lines)
    size = _block_size(header, block_size)
    blocks = BlockPrompts(path, size)
    plays = _plays([_request(row, blocks) for row in lines])
    if not plays:
        raise TraceError(path, "rows", 0, "at least one request behind the header")
    ordered = sorted((_in_start_order(play) for play in plays.values()), key=_arrival_s)
    extra = {"format": NAME, "block_size": size, **_losses(ordered)}
    metadata = TraceMetadata(path.name, generator="pbkv traces import", extra=extra)
    blocks.seal(request.prompt for play in ordered for request in play)
    return (_workflow(play, blocks) for play in ordered), metadata


def _block_size(header: Row, block_size: int | None) -> int:
    if header.text("schema") != SCHEMA_NAME:
        raise header.error("schema", header.values["schema"], SCHEMA_NAME)
    if header.count("version") != VERSION:
        raise header.error("version", header.values["version"], str(VERSION))
    return block_size or header.count("block_size", 1)


def _request(row: Row, blocks: BlockPrompts) -> _Request:
    dependencies = row.items("dependencies") if "dependencies" in row.values else []
    parsed = [_dependency(row, index, raw) for index, raw in enumerate(dependencies)]
    return _Request(
        Row(row.path, row.line, {}),  # for errors: the values take much memory
        row.text("request_id"),
        row.text("play_id"),
        row.text("session_id"),
        (row.number_or_none("not_before_ms") or 0.0) / 1000,
        tuple(request_id for request_id, _ in parsed),
        tuple(delay_s for _, delay_s in parsed),
        row.count("output_length"),
        blocks.add_row(row),
    )


def _dependency(row: Row, index: int, raw: Any) -> tuple[str, float]:
    where = f"dependencies[{index}]"
    if not isinstance(raw, dict):
        raise row.error(where, raw, "an object")
    dependency = Row(row.path, row.line, {f"{where}.{name}": value for name, value in raw.items()})
    trigger = dependency.text(f"{where}.trigger")
    if trigger != "completion":
        raise row.error(f"{where}.trigger", trigger, "completion (a call here waits for its parents' ends)")
    return dependency.text(f"{where}.request_id"), dependency.number(f"{where}.delay_ms") / 1000


def _plays(requests: Sequence[_Request]) -> dict[str, list[_Request]]:
    """The requests of each play, their dependencies checked to lie within it."""
    owner: dict[str, str] = {}
    plays: dict[str, list[_Request]] = {}
    for request in requests:
        if request.request_id in owner:
            raise request.row.error("request_id", request.request_id, "an id that no other row has")
        owner[request.request_id] = request.play_id
        plays.setdefault(request.play_id, []).append(request)
    for request in requests:
        for parent in request.parent_ids:
            if owner.get(parent) != request.play_id:
                problem = "a request of the same play" if parent in owner else "the request_id of a row"
                raise request.row.error("dependencies", parent, problem)
    return plays


def _in_start_order(play: Sequence[_Request]) -> list[_Request]:
    """Parents before children, else as in the file. Raises TraceError if there is a cycle."""
    position = {request.request_id: index for index, request in enumerate(play)}
    waiting = [len(set(request.parent_ids)) for request in play]
    children: dict[int, list[int]] = {}
    for index, request in enumerate(play):
        for parent in set(request.parent_ids):
            children.setdefault(position[parent], []).append(index)
    ready = [index for index, num_parents in enumerate(waiting) if not num_parents]
    heapify(ready)
    ordered = []
    while ready:
        index = heappop(ready)
        ordered.append(play[index])
        for child in children.get(index, ()):
            waiting[child] -= 1
            if not waiting[child]:
                heappush(ready, child)
    if len(ordered) < len(play):
        stuck = next(request for request, left in zip(play, waiting, strict=True) if left)
        raise stuck.row.error("dependencies", list(stuck.parent_ids), "no cycle of requests")
    return ordered


def _arrival_s(play: Sequence[_Request]) -> float:
    return min(request.not_before_s for request in play if not request.parent_ids)


def _losses(plays: Sequence[Sequence[_Request]]) -> Mapping[str, int]:
    losses: Counter[str] = Counter()
    for play in plays:
        arrival_s = _arrival_s(play)
        for request in play:
            losses["num_dropped_not_before"] += bool(request.parent_ids and request.not_before_s > arrival_s)
            losses["num_merged_delays"] += len(set(request.delays_s)) > 1
    return {name: number for name, number in losses.items() if number}


def _workflow(play: Sequence[_Request], blocks: BlockPrompts) -> Workflow:
    arrival_s = _arrival_s(play)
    indices = {request.request_id: index for index, request in enumerate(play)}
    calls = []
    for index, request in enumerate(play):
        ids, tokens, _ = blocks.segments(request.prompt)
        call = Call(
            call_index=index,
            agent=_agent(request, play[0].session_id),
            parent_indices=tuple(sorted({indices[parent] for parent in request.parent_ids})),
            tool_gap_s=max(request.delays_s, default=request.not_before_s - arrival_s),
            segment_ids=ids,
            segment_tokens=tokens,
            num_output_tokens=request.num_output_tokens,
            tool_gap_origin="logged",
        )
        calls.append(call)
    return Workflow(play[0].play_id, NAME, arrival_s, calls)


def _agent(request: _Request, first_session: str) -> str:
    prefix = f"{request.play_id}:"
    if request.session_id.startswith(prefix) and request.session_id != prefix:
        return request.session_id.removeprefix(prefix)
    return "agent" if request.session_id == first_session else "sub-agent"
