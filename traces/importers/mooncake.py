"""Mooncake's open-loop format: each row is one request, and becomes a workflow of one call.

Prompts are compressed to segments (see ``block_prompts``), for which their blocks lie in a temporary file.
Nothing in a row says whose answer a later prompt contains: output ids are null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from pbkv.traces.importers.block_prompts import BlockPrompts
from pbkv.traces.importers.lines import is_object_with, rows
from pbkv.traces.importers.requests import Requests
from pbkv.traces.schema import TraceMetadata, Workflow

NAME = "mooncake"


def recognises(line: str) -> bool:
    return is_object_with(line, "timestamp", "hash_ids")


def read(path: Path, block_size: int | None = None) -> tuple[Iterator[Workflow], TraceMetadata]:
    """The requests by arrival (ties in file order); without ``block_size`` it is found from the lengths.

    Raises TraceError for a bad row, ConfigError if the block size cannot be told.
    """
    blocks = BlockPrompts(path, block_size)
    requests = Requests(NAME, blocks)
    for row in rows(path):
        arrival_s, num_output_tokens = row.number("timestamp") / 1000, row.count("output_length")
        blocks.add_row(row)
        requests.add(arrival_s, num_output_tokens)
    extra = {"format": NAME, "block_size": blocks.seal(requests.order())}
    metadata = TraceMetadata(path.name, generator="pbkv traces import", extra=extra)
    places = count()
    named = requests.workflows(lambda _: f"request-{next(places):06d}", Counter(), origin="logged")
    return named, metadata
