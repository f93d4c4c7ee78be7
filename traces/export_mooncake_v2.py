"""Writes a trace as agentic Mooncake v2, which NVIDIA's AISimulate and Dynamo read.

Kept: calls, parents, gaps, arrivals, lengths, agents (in the session id, ``workflow:agent``), and which
leading blocks prompts share. Lost: sharing within a block, kinds, output ids, applications and context
vectors; an unknown gap becomes 0, an unknown arrival 0, and an answer without tokens gets one.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import IO

from pbkv.traces.errors import ConfigError
from pbkv.traces.importers.mooncake_v2 import SCHEMA_NAME, VERSION
from pbkv.traces.reader import Trace
from pbkv.traces.schema import Call, Workflow
from pbkv.traces.temporary import check_free_file, replacing

_MODEL = "any"


def export(trace: Trace, out: Path, *, block_size: int = 64, force: bool = False) -> int:
    """Write ``trace`` to ``out``, gzipped if its name ends in .gz, and return the number of calls.

    Nothing is left at ``out`` unless all of it was written. Memory: the distinct blocks. Raises
    ConfigError for a bad block size or an ``out`` that exists without ``force``, TraceError for a bad
    trace.
    """
    if block_size < 1:
        raise ConfigError("block size", block_size, "a number ≥ 1")
    num_calls = 0
    with _written(out, force) as file:
        _write(file, _header(trace, block_size))
        table = _BlockTable(block_size)
        for workflow in trace.workflows():
            for row in _rows(workflow, table):
                _write(file, row)
                num_calls += 1
    return num_calls


def _header(trace: Trace, block_size: int) -> dict[str, object]:
    source = {"format": "pbkv", "digest": trace.metadata.digest or "unknown"}
    header = {"schema": SCHEMA_NAME, "version": VERSION, "block_size": block_size}
    return {**header, "hash_id_scope": "local", "source": source}


def _rows(workflow: Workflow, table: _BlockTable) -> Iterator[dict[str, object]]:
    begun: set[str] = set()
    for call in workflow.calls:
        yield {
            "request_id": _request_id(workflow, call.call_index),
            "play_id": workflow.workflow_id,
            "session_id": f"{workflow.workflow_id}:{call.agent}",
            "model": _MODEL,
            "input_length": call.num_prompt_tokens,
            "output_length": max(1, call.num_output_tokens),
            "hash_ids": table.hash_ids(call),
            "not_before_ms": 0.0 if call.parent_indices else _start_ms(workflow, call),
            "dependencies": _dependencies(workflow, call, begun),
        }
        begun.add(call.agent)


def _request_id(workflow: Workflow, index: int) -> str:
    return f"{workflow.workflow_id}/{index}"


def _start_ms(workflow: Workflow, root: Call) -> float:
    return _milliseconds((workflow.arrival_s or 0.0) + (root.tool_gap_s or 0.0))


def _dependencies(workflow: Workflow, call: Call, begun: set[str]) -> list[dict[str, object]]:
    return [
        {
            "request_id": _request_id(workflow, parent),
            "trigger": "completion",
            "delay_ms": _milliseconds(call.tool_gap_s or 0.0),
            "relation": _relation(workflow.calls[parent].agent, call.agent, begun),
        }
        for parent in call.parent_indices
    ]


def _relation(parent: str, agent: str, begun: set[str]) -> str:
    """The next of a session, the first of one, or one that waits for another session."""
    if parent == agent:
        return "sequence"
    return "join" if agent in begun else "spawn"


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 6)  # nanoseconds: what is behind them is rounding, and long to write


class _BlockTable:
    """Numbers the distinct blocks of a trace, each with all that precedes it, as they are first seen."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._chains: dict[tuple[int, int], int] = {}
        self._blocks: dict[tuple[int, int], int] = {}

    def hash_ids(self, call: Call) -> list[int]:
        """An id for each block of the prompt, a last one that is not full included.

        Two prompts agree on a block exactly if they agree on all segments up to the one that the
        block ends in.
        """
        size, blocks, chain = self._block_size, self._blocks, 0
        num_tokens = call.num_prompt_tokens
        ids: list[int] = []
        for segment_id, end in zip(call.segment_ids, accumulate(call.segment_tokens), strict=True):
            chain = self._chains.setdefault((chain, segment_id), len(self._chains) + 1)
            num_ended = -(-end // size) if end == num_tokens else end // size
            ids += [blocks.setdefault((chain, index), len(blocks)) for index in range(len(ids), num_ended)]
        return ids


def _write(file: IO[str], row: dict[str, object]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def _written(out: Path, force: bool) -> Iterator[IO[str]]:
    """A text file under a temporary name, renamed to ``out`` when all went well."""
    check_free_file(out, force)
    with replacing(out) as temporary, temporary.open("wb") as raw:
        if out.suffix == ".gz":
            # No name and no time in the header: equal traces give equal bytes.
            with (
                gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
                io.TextIOWrapper(packed) as file,
            ):
                yield file
        else:
            with io.TextIOWrapper(raw) as file:
                yield file
