"""Agentic Mooncake as it was before its version 2 had a header: rows that wait for each other.

``request_id`` names a row, ``wait_for`` the rows that must end first; then it waits ``delay`` and
``tool_wait_ms``. Rows tied by that, or of one ``session_id``, are one workflow. A row that waits for none
starts at its ``timestamp``; times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbkv.traces.importers.block_prompts import BlockPrompts
from pbkv.traces.importers.calls import Log, LoggedCall
from pbkv.traces.importers.lines import Row, is_object_with, rows
from pbkv.traces.schema import TraceMetadata, Workflow

NAME = "mooncake-v1"
_ALIASES = {
    "input_tokens": "input_length",
    "output_tokens": "output_length",
    "created_time": "timestamp",
    "delay_ms": "delay",
}


@dataclass(slots=True)
class _Request:
    row: Row
    call: LoggedCall
    session_id: str | None
    waits_for: list[str]


def recognises(line: str) -> bool:
    return is_object_with(line, "request_id", "hash_ids") and not is_object_with(line, "play_id")


def read(path: Path, block_size: int | None = None) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The workflows by arrival. Raises TraceError for a bad row, and if one waits for an unknown one."""
    log = Log(path, NAME, blocks=BlockPrompts(path, block_size))
    requests: dict[str, _Request] = {}
    for row in rows(path):
        request_id = row.text("request_id")
        if request_id in requests:
            raise row.error("request_id", request_id, "an id that no other row has")
        requests[request_id] = _request(log, row)
    groups = _Groups()
    for request_id, request in requests.items():
        _tie(request_id, request, requests, groups)
    first: dict[str, str | None] = {}
    for request_id, request in requests.items():
        workflow_id = groups.of(request_id)
        if request.session_id != first.setdefault(workflow_id, request.session_id):
            request.call.agent = "sub-agent"
        log.add(workflow_id, request.call)
    return log.imported()


def _request(log: Log, row: Row) -> _Request:
    values = {_ALIASES.get(key, key): value for key, value in row.values.items()}
    whole = Row(row.path, row.line, values)
    assert log.blocks is not None
    number = log.blocks.add_row(whole)
    session_id = whole.text("session_id") if values.get("session_id") is not None else None
    call = LoggedCall("agent", number, whole.count("output_length"))
    timestamp = whole.number_or_none("timestamp")
    waits_for = [_text(whole, item) for item in whole.items("wait_for")] if values.get("wait_for") else []
    if waits_for:
        waited = (whole.number_or_none("delay") or 0.0, whole.number_or_none("tool_wait_ms") or 0.0)
        call.gap_s = sum(waited) / 1000
    if timestamp is not None:
        call.started_s = timestamp / 1000
    return _Request(Row(row.path, row.line, {}), call, session_id, waits_for)


def _text(row: Row, item: Any) -> str:
    if not isinstance(item, str):
        raise row.error("wait_for", item, "request ids")
    return item


def _tie(request_id: str, request: _Request, requests: dict[str, _Request], groups: _Groups) -> None:
    if request.session_id is not None:
        groups.join(f"session {request.session_id}", request_id)
    for other in request.waits_for:
        if other not in requests:
            raise request.row.error("wait_for", other, "the request_id of a row")
        groups.join(other, request_id)
        request.call.parents = (*request.call.parents, requests[other].call)


class _Groups:
    """Which names belong together (union-find)."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, key: str) -> str:
        while (above := self._above.setdefault(key, key)) != key:
            self._above[key] = self._above[above]
            key = above
        return key

    def join(self, one: str, other: str) -> None:
        self._above[self.of(other)] = self.of(one)
