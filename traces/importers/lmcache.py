"""LMCache's lookup log: the chunk hashes of every lookup, as its chunk statistics write them to disk.

(``enable_chunk_statistics`` with the strategy ``file_hash``: files ``chunk_hashes_*.jsonl``.) A lookup is a
workflow of one call. The log has full chunks only and says neither their size (256 tokens is LMCache's
default; ``--block-size`` for another) nor how long answers were: 1 token is assumed, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pbkv.traces.importers.block_prompts import BlockPrompts, block_ids
from pbkv.traces.importers.calls import Log, LoggedCall
from pbkv.traces.importers.lines import is_object_with
from pbkv.traces.importers.loose import items, name, records, seconds
from pbkv.traces.schema import TraceMetadata, Workflow

NAME = "lmcache"
_CHUNK_SIZE = 256


def recognises(line: str) -> bool:
    return is_object_with(line, "chunk_hashes", "lookup_id")


def recognises_folder(path: Path) -> bool:
    return any(path.glob("chunk_hashes_*.jsonl"))


def read(path: Path, block_size: int | None = None) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The lookups of a file or folder, by time. Memory: 8 to 16 bytes a chunk."""
    size = block_size or _CHUNK_SIZE
    log = Log(path, NAME, blocks=BlockPrompts(path, size))
    assert log.blocks is not None
    for file in sorted(path.glob("chunk_hashes_*.jsonl")) if path.is_dir() else [path]:
        for number, record in enumerate(records(file, log.counts), start=1):
            ids, key = block_ids(items(record.get("chunk_hashes"))), name(record.get("lookup_id"))
            if key is None or ids is None:
                log.counts["lookups without id or chunks left out"] += 1
            elif key in log.sessions:
                log.counts["lookups repeated for one request left out"] += 1
            else:
                prompt = log.blocks.add(number, ids, len(ids) * size)
                log.add(key, LoggedCall("request", prompt, 1, started_s=seconds(record.get("timestamp"))))
    log.counts["answers of unknown length taken as 1 token"] = len(log.sessions)
    return log.imported()
