"""vLLM's KV-cache events, written down as JSON lines: batches of blocks stored, removed and cleared.

vLLM publishes them as msgpack over ZMQ (``--kv-events-config``); a subscriber that writes each batch as one
JSON object, ``{"ts": …, "events": [{"type": "BlockStored", …}]}``, makes such a file. Events name no
requests: a run of blocks that grows without a break is taken as one, and becomes a workflow of one call.
Its prompt is the chain of blocks back to the first. Decoded blocks cannot be told from prompt blocks, and a
request whose blocks were all there leaves no event: reuse is understated. Both are said in the closing line.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from pbkv.traces.importers.block_chains import BlockChains
from pbkv.traces.importers.block_prompts import BlockPrompts, block_ids
from pbkv.traces.importers.loose import count, items, mapping, parsed, records, seconds
from pbkv.traces.importers.requests import Requests
from pbkv.traces.schema import TraceMetadata, Workflow

NAME = "vllm-events"
_STORED = "BlockStored"
_OTHERS = ("BlockRemoved", "AllBlocksCleared")
_FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size")  # in the order of the array form


def recognises(line: str) -> bool:
    fields = mapping(parsed(line))
    events = items(fields.get("events"))
    return "ts" in fields and bool(events) and _kind(events[0]) in (_STORED, *_OTHERS)


def read(path: Path, block_size: int | None = None) -> tuple[Iterator[Workflow], TraceMetadata]:
    """One call a run of stored blocks, by time. Memory: some 300 bytes an event, none a block."""
    reader = _Reader(block_size)
    for record in records(path, reader.counts):
        at_s = seconds(record.get("ts"))
        for event in items(record.get("events")):
            reader.take(event, at_s)
    return reader.imported(path)


class _Reader:
    """A run is one request, as far as events tell: stretches of blocks stored one behind the other."""

    def __init__(self, block_size: int | None) -> None:
        self.counts = Counter[str]()
        self._block_size = block_size
        self._chains = BlockChains()
        self._open: dict[int, int] = {}  # runs by their last block
        self._lasts, self._times = array("i"), array("d")  # of runs: last stretch, time of the first

    def take(self, event: Any, at_s: float | None) -> None:
        kind, fields = _kind(event), _fields(event)
        if kind != _STORED:
            if kind not in _OTHERS:
                self.counts["events of another kind left out"] += 1
            return
        ids, size = block_ids(items(fields.get("block_hashes"))), count(fields.get("block_size"))
        parents = block_ids([fields.get("parent_block_hash")])
        if ids is None or not size:
            self.counts["events without hashes or block size left out"] += 1
        elif self._block_size not in (None, size):
            self.counts["events of another block size left out"] += 1
        else:
            self._block_size = size
            self._store(parents[0] if parents else None, ids, at_s)

    def imported(self, path: Path) -> tuple[Iterator[Workflow], TraceMetadata]:
        size = self._block_size or 16
        lost = self._chains.close()
        if lost:
            self.counts["blocks whose prefix is not in the log"] = lost
        blocks = BlockPrompts(path, size)
        requests = Requests(NAME, blocks)
        for number, (last, at_s) in enumerate(zip(self._lasts, self._times, strict=True)):
            chain = self._chains.chain(last)
            blocks.add(number, chain.view(np.uint64), len(chain) * size)
            requests.add(None if isnan(at_s) else at_s, 1)
        if len(requests):
            self.counts["answers not told from prompts (1 token each)"] = len(requests)
        return requests.imported(path, lambda number: f"run-{number:06d}", self.counts)

    def _store(self, parent: int | None, ids: list[int], at_s: float | None) -> None:
        stretch = self._chains.add(parent, np.array(ids, np.int64))
        run = None if parent is None else self._open.pop(parent, None)
        if run is None:
            run = len(self._lasts)
            self._lasts.append(stretch)
            self._times.append(nan if at_s is None else at_s)
        self._lasts[run] = stretch
        self._open[ids[-1]] = run


def _kind(event: Any) -> Any:
    return event[0] if isinstance(event, list) and event else mapping(event).get("type")


def _fields(event: Any) -> dict[str, Any]:
    return dict(zip(_FIELDS, event[1:], strict=False)) if isinstance(event, list) else mapping(event)
