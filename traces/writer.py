"""Writes canonical traces: batch by batch, under a temporary name, renamed when complete."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pbkv.traces.schema import METADATA_KEY, SCHEMA, SEGMENT, Call, Digest, TraceMetadata, Workflow
from pbkv.traces.temporary import check_free_file, temporary_beside

CALLS_PER_ROW_GROUP = 8192


def write_trace(
    path: Path, workflows: Iterable[Workflow], metadata: TraceMetadata, *, force: bool = False
) -> TraceMetadata:
    """Write ``workflows`` to ``path`` and return the metadata with digest and counts filled in.

    Nothing is left at ``path`` unless all of it was written. Raises ConfigError if ``path`` exists
    and ``force`` is not set.
    """
    with TraceWriter(path, metadata, force=force) as writer:
        for workflow in workflows:
            writer.write(workflow)
        return writer.close()


class TraceWriter:
    """A context manager; ``close()`` (or a clean exit) renames the file into place."""

    def __init__(self, path: Path, metadata: TraceMetadata, *, force: bool = False) -> None:
        check_free_file(path, force)
        self._path = path
        self._temporary = temporary_beside(path)
        self._metadata = metadata
        self._digest = Digest()
        self._pending: list[Workflow] = []
        self._num_pending = self._num_calls = self._num_workflows = 0
        self._closed = False
        self._parquet = pq.ParquetWriter(
            self._temporary, SCHEMA, compression="zstd", use_dictionary=_DICTIONARY_COLUMNS
        )

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if self._closed:
            return
        if kind is None:
            self.close()
        else:
            self._parquet.close()
            self._temporary.unlink(missing_ok=True)

    def write(self, workflow: Workflow) -> None:
        self._pending.append(workflow)
        self._num_pending += len(workflow.calls)
        if self._num_pending >= CALLS_PER_ROW_GROUP:
            self._flush()

    def close(self) -> TraceMetadata:
        self._flush()
        metadata = replace(
            self._metadata,
            digest=self._digest.hexdigest() if self._num_calls else "",
            num_workflows=self._num_workflows,
            num_calls=self._num_calls,
        )
        self._parquet.add_key_value_metadata({METADATA_KEY: metadata.to_json()})
        self._parquet.close()
        self._temporary.rename(self._path)
        self._closed = True
        return metadata

    def _flush(self) -> None:
        if not self._pending:
            return
        batch = to_record_batch(self._pending)
        self._digest.update(batch)
        self._parquet.write_batch(batch)
        self._num_workflows += len(self._pending)
        self._num_calls += batch.num_rows
        self._pending = []
        self._num_pending = 0


# Segment ids of a growing history repeat from call to call: a dictionary makes them nearly free.
_DICTIONARY_COLUMNS = [
    "workflow_id",
    "app",
    "agent",
    "tool_gap_origin",
    "segments.list.element.id",
    "segments.list.element.num_tokens",
    "segments.list.element.kind",
]


def to_record_batch(workflows: Iterable[Workflow]) -> pa.RecordBatch:
    """The rows of ``workflows`` in the canonical schema, one a call."""
    owned = [(workflow, call) for workflow in workflows for call in workflow.calls]
    calls = [call for _, call in owned]
    columns = [
        pa.array([w.workflow_id for w, _ in owned], pa.string()),
        pa.array([w.app for w, _ in owned], pa.string()),
        pa.array([c.call_index for c in calls], pa.int32()),
        pa.array([c.agent for c in calls], pa.string()),
        pa.array([list(c.parent_indices) for c in calls], pa.list_(pa.int32())),
        pa.array([w.arrival_s for w, _ in owned], pa.float64()),
        pa.array([c.tool_gap_s for c in calls], pa.float64()),
        pa.array([c.tool_gap_origin for c in calls], pa.string()),
        _segments_column(calls),
        pa.array([c.num_output_tokens for c in calls], pa.int32()),
        pa.array([c.output_id for c in calls], pa.int64()),
        _contexts_column(calls),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _contexts_column(calls: list[Call]) -> pa.Array:
    """No Python floats: a hidden state has thousands of numbers."""
    vectors = [np.asarray(() if c.context is None else c.context, np.float32) for c in calls]
    offsets = np.cumsum([0, *map(len, vectors)], dtype=np.int32)
    values = pa.array(np.concatenate([np.empty(0, np.float32), *vectors]))
    is_missing = pa.array([c.context is None for c in calls], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), values, pa.list_(pa.float32()), mask=is_missing)


def _segments_column(calls: list[Call]) -> pa.Array:
    offsets = [0]
    ids: list[int] = []
    tokens: list[int] = []
    kinds: list[str] = []
    for call in calls:
        ids.extend(call.segment_ids)
        tokens.extend(call.segment_tokens)
        kinds.extend(call.segment_kinds or repeat("context", len(call.segment_ids)))
        offsets.append(len(ids))
    leaves = [pa.array(ids, pa.int64()), pa.array(tokens, pa.int32()), pa.array(kinds, pa.string())]
    segments = pa.StructArray.from_arrays(leaves, fields=list(SEGMENT))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), segments)
