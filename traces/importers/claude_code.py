"""Claude Code session logs: the JSONL files under ~/.claude/projects, one a session, sub-agents included.

A session is a workflow; a model response (all records of one ``message.id``) is a call. Its prompt is what
the chain of ``parentUuid`` leads back to, with every result of the calls' tools; after a compaction the
chain begins anew with the summary. System prompt and tool definitions are not in the log: a segment stands
in for them, as long as the first response's usage says, which no other thread shares.
A sub-agent's calls follow the call that started it; the call that got its result waits for its last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pbkv.traces.importers.calls import Log
from pbkv.traces.importers.claude_session import Session
from pbkv.traces.importers.loose import DAMAGE, mapping, name, opened, parsed, records
from pbkv.traces.importers.text import Tokens
from pbkv.traces.schema import TraceMetadata, Workflow

NAME = "claude-code"
_HEAD_LINES = 50
_TYPES = ("user", "assistant")


def recognises_file(path: Path) -> bool:
    """Whether one of the first lines is a message: a session often begins with other records."""
    return _has_records(path)


def recognises_folder(path: Path) -> bool:
    return any(_has_records(file) for file in _files(path))


def read(path: Path, tokens: Tokens, *, keeps_text: bool = False) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The sessions of a file or a folder (with all folders below). Memory: a few hundred bytes a message."""
    log = Log(path, NAME, tokens, keeps_text=keeps_text)
    seen: set[int] = set()
    for session_id, files in _sessions(path).items():
        session = Session(log, session_id, seen)
        for file in files:
            for record in records(file, log.counts):
                session.take(record)
        session.close(_agent_uses(files))
    return log.imported(workflow="session")


def _sessions(path: Path) -> dict[str, list[Path]]:
    """Files by session, the main one first."""
    sessions: dict[str, list[Path]] = {}
    for file in _files(path):
        if file == path or _has_records(file):
            sessions.setdefault(_session_id(file), []).append(file)
    return {
        key: sorted(files, key=lambda file: (_is_agent(file), file.name)) for key, files in sessions.items()
    }


def _files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*.jsonl*") if file.is_file())
    beside = [*path.parent.glob("agent-*.jsonl"), *(path.parent / path.stem).rglob("agent-*.jsonl")]
    own = _session_id(path)
    return [path, *sorted(file for file in beside if file != path and _session_id(file) == own)]


def _session_id(file: Path) -> str:
    """That of the main file is its name; that of an agent's file stands in its records."""
    if not _is_agent(file):
        return file.name.split(".jsonl")[0]
    found = next((name(record.get("sessionId")) for record in _head(file) if _is_record(record)), None)
    return found or file.stem


def _is_agent(file: Path) -> bool:
    return file.name.startswith("agent-")


def _has_records(file: Path) -> bool:
    return any(_is_record(record) for record in _head(file))


def _is_record(record: Any) -> bool:
    fields = mapping(record)
    return fields.get("type") in _TYPES and "sessionId" in fields and "message" in fields


def _head(file: Path) -> list[Any]:
    with opened(file) as lines:
        try:
            return [parsed(line) for line in islice(lines, _HEAD_LINES)]
        except DAMAGE:
            return []


def _agent_uses(files: Iterable[Path]) -> dict[str, str]:
    """Tool use that started an agent, by agent, from the .meta.json beside its log, where there is one."""
    uses = {}
    for file in files:
        meta = file.with_name(f"{file.stem}.meta.json")
        if _is_agent(file) and meta.is_file():
            tool_use = name(mapping(parsed(meta.read_bytes())).get("toolUseId"))
            if tool_use:
                uses[file.stem.removeprefix("agent-")] = tool_use
    return uses
