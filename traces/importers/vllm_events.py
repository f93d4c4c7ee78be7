"""vLLM's KV-cache events, written down as JSON lines: batches of blocks stored, removed and cleared.

vLLM publishes them as msgpack over ZMQ (``--kv-events-config``); a subscriber that writes each batch as one
JSON object, ``{"ts": …, "events": [{"type": "BlockStored", …}]}``, makes such a file. Events name no
requests: a run of blocks that grows without a break is taken as one, and becomes a workflow of one call.
Its prompt is the chain of blocks back to the first. Decoded blocks cannot be told from prompt blocks, and a
request whose blocks were all there leaves no event: reuse is understated. Both are said in the closing line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbkv.traces.importers.block_prompts import BlockPrompts, block_ids
from pbkv.traces.importers.calls import Log, LoggedCall
from pbkv.traces.importers.loose import count, items, mapping, parsed, records, seconds
from pbkv.traces.schema import TraceMetadata, Workflow

NAME = "vllm-events"
_STORED = "BlockStored"
_OTHERS = ("BlockRemoved", "AllBlocksCleared")
_FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size")  # in the order of the array form


@dataclass(slots=True)
class _Run:
    """Blocks stored one behind the other: one request, as far as events tell."""

    last: int
    at_s: float | None


def recognises(line: str) -> bool:
    fields = mapping(parsed(line))
    events = items(fields.get("events"))
    return "ts" in fields and bool(events) and _kind(events[0]) in (_STORED, *_OTHERS)


def read(path: Path, block_size: int | None = None) -> tuple[Iterator[Workflow], TraceMetadata]:
    """One call a run of stored blocks, by time. Memory: about 150 bytes a block."""
    log = Log(path, NAME)
    reader = _Reader(log, block_size)
    for record in records(path, log.counts):
        at_s = seconds(record.get("ts"))
        for event in items(record.get("events")):
            reader.take(event, at_s)
    log.blocks = BlockPrompts(path, reader.block_size or 16)
    reader.close(log.blocks)
    return log.imported()


class _Reader:
    def __init__(self, log: Log, block_size: int | None) -> None:
        self._log, self.block_size = log, block_size
        self._parents: dict[int, int | None] = {}
        self._runs: dict[int, _Run] = {}  # open ones by their last block
        self._all: list[_Run] = []

    def take(self, event: Any, at_s: float | None) -> None:
        kind, fields = _kind(event), _fields(event)
        if kind != _STORED:
            if kind not in _OTHERS:
                self._log.counts["events of another kind left out"] += 1
            return
        ids, size = block_ids(items(fields.get("block_hashes"))), count(fields.get("block_size"))
        parents = block_ids([fields.get("parent_block_hash")])
        if ids is None or not size:
            self._log.counts["events without hashes or block size left out"] += 1
        elif self.block_size not in (None, size):
            self._log.counts["events of another block size left out"] += 1
        else:
            self.block_size = size
            self._store(parents[0] if parents else None, ids, at_s)

    def close(self, blocks: BlockPrompts) -> None:
        size = self.block_size or 16
        for number, run in enumerate(self._all):
            ids = self._chain(run.last)
            prompt = blocks.add(number, ids, len(ids) * size)
            self._log.add(f"run-{number:06d}", LoggedCall("request", prompt, 1, started_s=run.at_s))
        if self._all:
            self._log.counts["answers not told from prompts (1 token each)"] = len(self._all)

    def _store(self, parent: int | None, ids: list[int], at_s: float | None) -> None:
        if parent is not None and parent not in self._parents:
            self._log.counts["blocks whose prefix is not in the log"] += 1
            parent = None
        run = self._runs.pop(parent, None) if parent is not None else None
        if run is None:
            run = _Run(0, at_s)
            self._all.append(run)
        for block in ids:
            if block not in self._parents:
                self._parents[block] = parent
            parent = block
        run.last = ids[-1]
        self._runs[run.last] = run

    def _chain(self, block: int | None) -> list[int]:
        found: list[int] = []
        passed: set[int] = set()
        while block is not None and block not in passed:
            passed.add(block)
            found.append(block)
            block = self._parents[block]
        return found[::-1]


def _kind(event: Any) -> Any:
    return event[0] if isinstance(event, list) and event else mapping(event).get("type")


def _fields(event: Any) -> dict[str, Any]:
    return dict(zip(_FIELDS, event[1:], strict=False)) if isinstance(event, list) else mapping(event)
