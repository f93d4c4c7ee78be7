"""Weka's agentic traces (kv-cache-tester): one JSON object a session, with block hashes of each prompt.

A file is one session or has one a line; a folder is read file by file. ``requests`` holds calls (``t``,
``in``, ``out``, ``hash_ids``, ``api_time``, ``think_time``) and ``subagent`` entries with calls of their own:
a sub-agent starts behind the call before it, and the call after it waits for its last one. Hash ids of scope
``local`` mean nothing outside their session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.importers.block_prompts import BlockPrompts
from pbkv.traces.importers.calls import Log, LoggedCall
from pbkv.traces.importers.json_stream import ITEM, elements, values_at
from pbkv.traces.importers.loose import (
    DAMAGE,
    count,
    items,
    mapping,
    name,
    opened,
    parsed,
    records,
    seconds,
)
from pbkv.traces.schema import TraceMetadata, Workflow

NAME = "weka"
_CALLS = ("n", "s")
_BLOCK_SIZE = 64
_MAX_DEPTH = 20
_HEAD_BYTES = 1 << 16
_REQUEST = f"requests.{ITEM}"
_MARKS = ("block_size", "hash_id_scope")


def recognises(line: str) -> bool:
    return _is_session(parsed(line))


def recognises_file(path: Path) -> bool:
    """Whether a document of many lines is a session."""
    if path.suffix != ".json" or not _has_marks(path):
        return False
    found = set()
    try:
        for place, _ in values_at(path, _REQUEST, *_MARKS):
            found.add(place)
            if _REQUEST in found and len(found) > 1:
                return True
    except TraceError:
        pass
    return False


def _has_marks(path: Path) -> bool:
    with opened(path) as file:
        try:
            head = file.read(_HEAD_BYTES)
        except DAMAGE:
            return False
    return any(f'"{mark}"'.encode() in head for mark in ("requests", *_MARKS))


def recognises_folder(path: Path) -> bool:
    first = next(iter(sorted(path.glob("*.json"))), None)
    return first is not None and recognises_file(first)


def read(path: Path, block_size: int | None = None) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The sessions of a file or folder. Memory: a few hundred bytes a call, and a session of a document."""
    log = Log(path, NAME, own_clocks=True)
    log.blocks = BlockPrompts(path, block_size)
    reader = _Reader(log, log.blocks)
    for number, session in enumerate(_sessions(path, log), start=1):
        size = count(session.get("block_size")) or _BLOCK_SIZE
        log.blocks.block_size = log.blocks.block_size or size
        if block_size is None and size != log.blocks.block_size:
            raise ConfigError("block size", [log.blocks.block_size, size], "one block size in all sessions")
        reader.session(number, session)
    return log.imported()


def _sessions(path: Path, log: Log) -> Iterator[dict[str, Any]]:
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        found = elements(file) if file.suffix == ".json" else records(file, log.counts)
        yield from map(mapping, found)


def _is_session(value: Any) -> bool:
    fields = mapping(value)
    return isinstance(fields.get("requests"), list) and any(mark in fields for mark in _MARKS)


@dataclass(slots=True)
class _Thread:
    """One conversation as it is read: its last call, and the sub-agents that its next call waits for."""

    agent: str
    before: LoggedCall | None
    awaited: list[LoggedCall] = field(default_factory=list)
    last_s: float | None = None


class _Reader:
    def __init__(self, log: Log, blocks: BlockPrompts) -> None:
        self._log, self._blocks = log, blocks
        self._number, self._offset = 0, 0

    def session(self, number: int, session: dict[str, Any]) -> None:
        key = name(session.get("id")) or f"session-{number:06d}"
        if key in self._log.sessions:
            self._log.counts["sessions with a known id left out"] += 1
            return
        self._number = number
        self._offset = 0 if session.get("hash_id_scope") == "global" else number << 40
        self._thread(key, items(session.get("requests")), _Thread("main", None), 0)

    def _thread(self, key: str, requests: list[Any], thread: _Thread, depth: int) -> None:
        for request in requests:
            fields = mapping(request)
            if fields.get("type") == "subagent" and depth < _MAX_DEPTH:
                agent = name(fields.get("subagent_type")) or "sub-agent"
                inner = _Thread(agent, thread.before)
                self._thread(key, items(fields.get("requests")), inner, depth + 1)
                if inner.before is not None and inner.before is not thread.before:
                    thread.awaited.append(inner.before)
            elif fields.get("type") in _CALLS:
                self._call(key, fields, thread)
            else:
                self._log.counts[f"requests of type {name(fields.get('type')) or 'unknown'} left out"] += 1

    def _call(self, key: str, fields: dict[str, Any], thread: _Thread) -> None:
        num_tokens, prompt = count(fields.get("in")), None
        if num_tokens:
            prompt = self._prompt(items(fields.get("hash_ids")), num_tokens)
        if prompt is None:
            self._log.counts["requests without a prompt left out"] += 1
            return
        num_answer = count(fields.get("out"))
        if num_answer is None:
            self._log.counts["answers of unknown length taken as 1 token"] += 1
        call = LoggedCall(thread.agent, prompt, 1 if num_answer is None else num_answer)
        call.parents = [*([thread.before] if thread.before else []), *thread.awaited]
        self._time(call, fields, thread)
        thread.before, thread.awaited = call, []
        self._log.add(key, call)

    def _time(self, call: LoggedCall, fields: dict[str, Any], thread: _Thread) -> None:
        """Start and end within the thread's own clock; a sub-agent's may count from its start."""
        at_s, lasted_s = seconds(fields.get("t")), seconds(fields.get("api_time"))
        if thread.agent == "main":
            call.started_s = at_s
            if at_s is not None and lasted_s is not None:
                call.ended_s = at_s + lasted_s
        elif thread.last_s is not None and at_s is not None and lasted_s is not None:
            call.gap_s = max(at_s - thread.last_s, 0.0) if fields.get("think_time") is None else None
        if at_s is not None and lasted_s is not None:
            thread.last_s = at_s + lasted_s
        thought_s = seconds(fields.get("think_time"))
        if thought_s is not None and not thread.awaited:
            call.gap_s = thought_s

    def _prompt(self, values: list[Any], num_tokens: int) -> int | None:
        """Hashes cover the prompt, or its full blocks only; where they fit neither way, they are believed."""
        ids = [value for value in values if type(value) is int and 0 <= value < 1 << 40]
        if not ids or len(ids) != len(values):
            return None
        ids = [value + self._offset for value in ids]
        size = self._blocks.block_size or _BLOCK_SIZE
        num_hashed = len(ids) * size
        if 0 <= num_hashed - num_tokens < size:
            return self._blocks.add(self._number, ids, num_tokens)
        if 0 <= num_tokens - num_hashed < size:
            return self._blocks.add(self._number, ids, num_hashed, num_tokens - num_hashed)
        self._log.counts["prompts whose length is not that of their blocks"] += 1
        return self._blocks.add(self._number, ids, num_hashed, max(num_tokens - num_hashed, 0))
