"""LMCache's lookup log: the chunk hashes of every lookup, as its chunk statistics write them to disk.

(``enable_chunk_statistics`` with the strategy ``file_hash``: files ``chunk_hashes_*.jsonl``.) A lookup is a
workflow of one call. The log has full chunks only and says neither their size (256 tokens is LMCache's
default; ``--block-size`` for another) nor how long answers were: 1 token is assumed, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pbkv.traces.importers.block_prompts import BlockPrompts, block_ids
from pbkv.traces.importers.lines import is_object_with
from pbkv.traces.importers.loose import items, name, records, seconds
from pbkv.traces.importers.requests import Names, Requests
from pbkv.traces.schema import TraceMetadata, Workflow

NAME = "lmcache"
_CHUNK_SIZE = 256


def recognises(line: str) -> bool:
    return is_object_with(line, "chunk_hashes", "lookup_id")


def recognises_folder(path: Path) -> bool:
    return any(path.glob("chunk_hashes_*.jsonl"))


def read(path: Path, block_size: int | None = None) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The lookups of a file or folder, by time. Memory: some 200 bytes a lookup."""
    size = block_size or _CHUNK_SIZE
    blocks, names, counts = BlockPrompts(path, size), Names(), Counter[str]()
    requests = Requests(NAME, blocks)
    for file in sorted(path.glob("chunk_hashes_*.jsonl")) if path.is_dir() else [path]:
        for number, record in enumerate(records(file, counts), start=1):
            ids, key = block_ids(items(record.get("chunk_hashes"))), name(record.get("lookup_id"))
            if key is None or ids is None:
                counts["lookups without id or chunks left out"] += 1
            elif not names.add(key):
                counts["lookups repeated for one request left out"] += 1
            else:
                blocks.add(number, ids, len(ids) * size)
                requests.add(seconds(record.get("timestamp")), 1)
    counts["answers of unknown length taken as 1 token"] = len(requests)
    return requests.imported(path, names.__getitem__, counts)
