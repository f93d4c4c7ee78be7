"""Mooncake's open-loop format: each row is one request, and becomes a workflow of one call.

Prompts are compressed to segments (see ``blocks``), for which all rows are held in memory. Nothing in a
row says whose answer a later prompt contains: output ids are null.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from pbkv.traces.importers.blocks import HashedPrompt, block_size_of, read_prompt, to_segments
from pbkv.traces.importers.lines import is_object_with, rows
from pbkv.traces.schema import Call, TraceMetadata, Workflow

NAME = "mooncake"

_Request = tuple[float, int, HashedPrompt]  # arrival (s), output tokens, prompt


def recognises(line: str) -> bool:
    return is_object_with(line, "timestamp", "hash_ids")


def read(path: Path, block_size: int | None = None) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The requests by arrival (ties in file order); without ``block_size`` it is found from the lengths.

    Raises TraceError for a bad row, ConfigError if the block size cannot be told.
    """
    requests = sorted(_requests(path), key=itemgetter(0))
    prompts = [prompt for _, _, prompt in requests]
    size = block_size or block_size_of(path, prompts)
    extra = {"format": NAME, "block_size": size}
    metadata = TraceMetadata(path.name, generator="pbkv traces import", extra=extra)
    segments = to_segments(path, prompts, size)
    return _workflows(requests, segments), metadata


def _requests(path: Path) -> Iterator[_Request]:
    for row in rows(path):
        yield row.number("timestamp") / 1000, row.count("output_length"), read_prompt(row)


def _workflows(
    requests: list[_Request], segments: Iterator[tuple[list[int], list[int]]]
) -> Iterator[Workflow]:
    numbered = enumerate(zip(requests, segments, strict=True))
    for number, ((arrival_s, num_output_tokens, _), (ids, tokens)) in numbered:
        call = Call(0, "request", (), 0.0, ids, tokens, num_output_tokens, tool_gap_origin="logged")
        yield Workflow(f"request-{number:06d}", NAME, arrival_s, [call])
