"""Writes canonical traces: batch by batch, under a temporary name, renamed when complete."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, repeat
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pbkv.traces.columns import column
from pbkv.traces.schema import (
    METADATA_KEY,
    NEW_TEXTS,
    SCHEMA,
    SEGMENT,
    Call,
    Digest,
    TraceMetadata,
    Workflow,
)
from pbkv.traces.temporary import check_free_file, temporary_beside

CALLS_PER_ROW_GROUP = 8192
_NUMBERS_PER_ROW_GROUP = (
    1 << 21
)  # of segments, and characters of text in eights: fewer calls where they are long
_NUMBERS_PER_SEGMENT = 3

Row = tuple[Workflow, Call]


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
        self._rows: list[Row] = []
        self._num_numbers = self._num_calls = self._num_workflows = 0
        self._closed = False
        self._schema = SCHEMA.append(NEW_TEXTS) if metadata.has_text else SCHEMA
        self._parquet = pq.ParquetWriter(
            self._temporary, self._schema, compression="zstd", use_dictionary=_DICTIONARY_COLUMNS
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
        """Calls are taken one by one and leave memory with their row group, also within a workflow."""
        self._num_workflows += 1
        for call in workflow.calls:
            self._rows.append((workflow, call))
            self._num_numbers += _NUMBERS_PER_SEGMENT * len(call.segment_ids)
            self._num_numbers += sum(len(text) for _, text in call.new_texts or ()) // 8
            if len(self._rows) >= CALLS_PER_ROW_GROUP or self._num_numbers >= _NUMBERS_PER_ROW_GROUP:
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
        if not self._rows:
            return
        batch = to_record_batch(self._rows, self._schema)
        self._digest.update(batch)
        self._parquet.write_batch(batch)
        self._num_calls += batch.num_rows
        self._rows = []
        self._num_numbers = 0


# Segment ids of a growing history repeat from call to call: a dictionary makes them nearly free.
_DICTIONARY_COLUMNS = [
    "workflow_id",
    "app",
    "agent",
    "tool_gap_origin",
    "segments.list.element.id",
    "segments.list.element.num_tokens",
    "segments.list.element.kind",
    "new_texts.list.element.text",
]


def to_record_batch(rows: Sequence[Row], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    """The rows in the canonical schema, one a call."""
    calls = [call for _, call in rows]
    columns = [
        column([workflow.workflow_id for workflow, _ in rows], pa.string()),
        column([workflow.app for workflow, _ in rows], pa.string()),
        column([call.call_index for call in calls], pa.int32()),
        column([call.agent for call in calls], pa.string()),
        _parents_column(calls),
        column([workflow.arrival_s for workflow, _ in rows], pa.float64()),
        column([call.tool_gap_s for call in calls], pa.float64()),
        column([call.tool_gap_origin for call in calls], pa.string()),
        _segments_column(calls),
        column([call.num_output_tokens for call in calls], pa.int32()),
        column([call.output_id for call in calls], pa.int64()),
        _contexts_column(calls),
    ]
    if NEW_TEXTS.name in schema.names:
        columns.append(_texts_column(calls))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _parents_column(calls: Sequence[Call]) -> pa.Array:
    flat = [parent for call in calls for parent in call.parent_indices]
    return pa.ListArray.from_arrays(_offsets(call.parent_indices for call in calls), column(flat, pa.int32()))


def _texts_column(calls: Sequence[Call]) -> pa.Array:
    """No text is an empty list."""
    flat = [pair for call in calls for pair in call.new_texts or ()]
    leaves = [column([pair[0] for pair in flat], pa.int64()), column([pair[1] for pair in flat], pa.string())]
    pairs = pa.StructArray.from_arrays(leaves, fields=list(NEW_TEXTS.type.value_type))
    return pa.ListArray.from_arrays(_offsets(call.new_texts or () for call in calls), pairs)


def _offsets(lists: Iterable[Sequence[object]]) -> pa.Array:
    return column(list(accumulate(map(len, lists), initial=0)), pa.int32())


def _contexts_column(calls: Sequence[Call]) -> pa.Array:
    """No Python floats: a hidden state has thousands of numbers."""
    if all(call.context is None for call in calls):
        return pa.nulls(len(calls), pa.list_(pa.float32()))
    vectors = [np.asarray(() if c.context is None else c.context, np.float32) for c in calls]
    offsets = np.cumsum([0, *map(len, vectors)], dtype=np.int32)
    values = pa.array(np.concatenate([np.empty(0, np.float32), *vectors]))
    is_missing = pa.array([c.context is None for c in calls], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), values, pa.list_(pa.float32()), mask=is_missing)


def _segments_column(calls: Sequence[Call]) -> pa.Array:
    ids: list[int] = []
    tokens: list[int] = []
    kinds: list[str] = []
    for call in calls:
        ids.extend(call.segment_ids)
        tokens.extend(call.segment_tokens)
        kinds.extend(call.segment_kinds or repeat("context", len(call.segment_ids)))
    leaves = [column(ids, pa.int64()), column(tokens, pa.int32()), column(kinds, pa.string())]
    segments = pa.StructArray.from_arrays(leaves, fields=list(SEGMENT))
    return pa.ListArray.from_arrays(_offsets(call.segment_ids for call in calls), segments)
