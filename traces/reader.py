"""Reads canonical traces as a stream of workflows, checking each value on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pbkv.traces.columns import numbers
from pbkv.traces.errors import TraceError
from pbkv.traces.schema import (
    METADATA_KEY,
    SCHEMA,
    SCHEMA_VERSION,
    Call,
    TraceMetadata,
    Workflow,
)

# What a simulation needs. Kinds, gap origins and context vectors are read on request.
_NEEDED = (
    "workflow_id",
    "app",
    "call_index",
    "agent",
    "parent_indices",
    "arrival_s",
    "tool_gap_s",
    "segments.list.element.id",
    "segments.list.element.num_tokens",
    "num_output_tokens",
    "output_id",
)
_CONTEXT = ("segments.list.element.kind", "context")
_CALLS_PER_BATCH = 4096


class Trace:
    """A canonical trace on disk. Opening it reads the footer; ``workflows()`` streams the rest.

    ``source`` is the file that the user knows, where ``path`` is a temporary one made from it. Raises
    TraceError if the file is missing, is not Parquet, lacks a column or has another schema version.
    """

    def __init__(self, path: Path | str, *, source: Path | None = None) -> None:
        self.path = Path(path) if source is None else source
        self._file = _open(Path(path))
        self.metadata = _metadata(self.path, self._file)
        _check_columns(self.path, self._file.schema_arrow)

    @property
    def num_calls(self) -> int:
        return int(self._file.metadata.num_rows)

    def workflows(self, *, everything: bool = False, with_context: bool = False) -> Iterator[Workflow]:
        """Each workflow in file order; ``everything`` adds kinds, gap origins and context vectors.

        ``with_context`` adds only what predictors read: kinds, and context vectors as views of float32.
        Memory is that of one batch of calls, one workflow and the set of workflow ids. Raises
        TraceError at the first bad value.
        """
        seen: set[str] = set()
        for workflow_id, rows in groupby(self._rows(everything, with_context), key=itemgetter(0)):
            if workflow_id in seen:
                raise TraceError(self.path, "workflow_id", workflow_id, "the rows of a workflow together")
            seen.add(workflow_id)
            workflow = _workflow(workflow_id, list(rows))
            _check_workflow(self.path, workflow)
            yield workflow
        if not seen:
            raise TraceError(self.path, "rows", 0, "at least one call (the trace is empty)")

    def longest_call(self) -> tuple[str, int, int]:
        """(workflow id, call index, tokens) of the call that holds most tokens at its end."""
        longest = ("", 0, 0)
        columns = ["workflow_id", "call_index", "segments.list.element.num_tokens", "num_output_tokens"]
        for batch in self._batches(columns):
            tokens = _call_tokens(self.path, batch)
            row = int(tokens.argmax())
            if tokens[row] > longest[2]:
                where = (batch.column("workflow_id")[row].as_py(), batch.column("call_index")[row].as_py())
                longest = (*where, int(tokens[row]))
        return longest

    def is_in_arrival_order(self) -> bool:
        """Whether arrivals are known and never fall from row to row. Raises TraceError if one is null."""
        last_s = 0.0
        for batch in self._batches(["arrival_s"]):
            column = _column(self.path, batch, "arrival_s")
            if column.null_count:
                raise TraceError(self.path, "arrival_s", "null", "arrivals (or run the closed loop)")
            arrivals = numbers(column)
            if arrivals[0] < last_s or bool((np.diff(arrivals) < 0).any()):
                return False
            last_s = float(arrivals[-1])
        return True

    def agents(self) -> set[str]:
        """Every agent that makes a call."""
        batches = self._batches(["agent"])
        return {agent for batch in batches for agent in _column(self.path, batch, "agent").to_pylist()}

    def num_context_dims(self) -> int | None:
        """The length of the first context vector; None if no call has one."""
        for batch in self._batches(["context"]):
            lists = batch.column("context")
            if lists.null_count < len(lists):
                return len(next(row for row in lists if row.is_valid))
        return None

    def _rows(self, everything: bool, with_context: bool) -> Iterator[_Row]:
        columns = [*_NEEDED, *_CONTEXT] if with_context else list(_NEEDED)
        for batch in self._batches(None if everything else columns):
            yield from _batch_rows(self.path, batch, plain=everything)

    def _batches(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        """Not threaded: a batch takes a millisecond, a thread's memory stays."""
        try:
            yield from self._file.iter_batches(_CALLS_PER_BATCH, columns=columns, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise TraceError(self.path, "file", str(error), "a whole Parquet file") from None


_Row = tuple[str, str, float | None, Call]


def _workflow(workflow_id: str, rows: list[_Row]) -> Workflow:
    _, app, arrival_s, _ = rows[0]
    return Workflow(workflow_id, app, arrival_s, [row[3] for row in rows])


def _check_workflow(path: Path, workflow: Workflow) -> None:
    for index, call in enumerate(workflow.calls):
        where = f"workflow {workflow.workflow_id!r}, call {call.call_index}"
        if call.call_index != index:
            raise TraceError(path, f"call_index of {where}", call.call_index, f"{index} (0, 1, … in order)")
        for parent in call.parent_indices:
            if not 0 <= parent < index:
                raise TraceError(
                    path, f"parent_indices of {where}", parent, _parent_expectation(workflow, index)
                )


def _parent_expectation(workflow: Workflow, index: int) -> str:
    expected = f"a call below {index} (parents start first)"
    return expected + ("; the parents form a cycle" if _reaches_itself(workflow, index) else "")


def _reaches_itself(workflow: Workflow, index: int) -> bool:
    reached: set[int] = set()
    frontier = list(workflow.calls[index].parent_indices)
    while frontier:
        parent = frontier.pop()
        if parent not in reached and 0 <= parent < len(workflow.calls):
            reached.add(parent)
            frontier.extend(workflow.calls[parent].parent_indices)
    return index in reached


def _batch_rows(path: Path, batch: pa.RecordBatch, *, plain: bool) -> Iterator[_Row]:
    """``plain``: context vectors as lists and not as views."""
    columns = {name: _column(path, batch, name) for name in batch.schema.names}
    num_rows = batch.num_rows
    segments = columns["segments"]
    _flat(path, "parent_indices", columns["parent_indices"])
    starts, ids, tokens, kinds = _segment_leaves(path, segments)
    spans = [slice(a, b) for a, b in pairwise(starts)]
    calls = map(
        Call,
        columns["call_index"].to_pylist(),
        columns["agent"].to_pylist(),
        columns["parent_indices"].to_pylist(),
        columns["tool_gap_s"].to_pylist(),
        map(ids.__getitem__, spans),
        map(tokens.__getitem__, spans),
        columns["num_output_tokens"].to_pylist(),
        columns["output_id"].to_pylist(),
        map(kinds.__getitem__, spans) if kinds is not None else repeat(None, num_rows),
        _optional(columns, "tool_gap_origin", num_rows),
        _optional(columns, "context", num_rows)
        if plain
        else _contexts(path, columns.get("context"), num_rows),
    )
    arrivals = columns["arrival_s"].to_pylist()
    return zip(columns["workflow_id"].to_pylist(), columns["app"].to_pylist(), arrivals, calls, strict=True)


def _call_tokens(path: Path, batch: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens that each row's call holds at its end (`Call.num_held_tokens`)."""
    starts, flat = _flat(path, "segments", _column(path, batch, "segments"))
    _check_range(path, "segments.num_tokens", flat.field(0), 1)
    tokens = np.concatenate(([0], np.cumsum(numbers(flat.field(0)), dtype=np.int64)))
    outputs = numbers(_column(path, batch, "num_output_tokens"))
    return np.asarray(np.diff(tokens[starts]) + np.maximum(outputs - 1, 0), np.int64)


def _flat(path: Path, name: str, lists: pa.ListArray) -> tuple[np.ndarray[Any, Any], pa.Array]:
    """Where each row's elements start (and the last one's end), and all elements, none of them null."""
    offsets = numbers(lists.offsets)
    first, last = int(offsets[0]), int(offsets[-1])
    elements = lists.values.slice(first, last - first)
    leaves = [elements]
    if pa.types.is_struct(elements.type):
        leaves += [elements.field(index) for index in range(elements.type.num_fields)]
    if any(leaf.null_count for leaf in leaves):
        raise TraceError(path, name, "a null in a list", "a value everywhere")
    return offsets - first, elements


def _optional(columns: dict[str, pa.Array], name: str, num_rows: int) -> Iterable[Any]:
    return columns[name].to_pylist() if name in columns else repeat(None, num_rows)


def _contexts(path: Path, lists: pa.ListArray | None, num_rows: int) -> Iterable[memoryview[float] | None]:
    """Each row's vector as a view of the batch: a wide one is not copied and makes no Python floats."""
    if lists is None or lists.null_count == num_rows:
        return repeat(None, num_rows)
    starts, elements = _flat(path, "context", lists)
    _check_finite(path, "context", elements)
    vectors = np.ascontiguousarray(numbers(elements), np.float32).data.cast("B").cast("f")
    is_there = lists.is_valid().to_pylist() if lists.null_count else repeat(True, num_rows)
    spans = pairwise(starts.tolist())
    return [vectors[a:b] if there else None for (a, b), there in zip(spans, is_there, strict=True)]


def _segment_leaves(
    path: Path, segments: pa.ListArray
) -> tuple[list[int], list[int], list[int], list[str] | None]:
    """Row offsets and the flat ids, lengths and (if read) kinds of a ``segments`` column."""
    starts, flat = _flat(path, "segments", segments)
    names = [flat.type.field(index).name for index in range(flat.type.num_fields)]
    leaves = {name: flat.field(index) for index, name in enumerate(names)}
    _check_range(path, "segments.num_tokens", leaves["num_tokens"], 1)
    if (np.diff(starts) == 0).any():
        raise TraceError(path, "segments", "an empty list", "at least one segment in each prompt")
    kinds = leaves["kind"].to_pylist() if "kind" in leaves else None
    return starts.tolist(), leaves["id"].to_pylist(), leaves["num_tokens"].to_pylist(), kinds


def _column(path: Path, batch: pa.RecordBatch, name: str) -> pa.Array:
    """One column in its canonical type, checked."""
    column = batch.column(name)
    expected = SCHEMA.field(name)
    if not expected.nullable and column.null_count:
        raise TraceError(path, name, "null", f"a value in each row ({expected.type})")
    if pa.types.is_floating(column.type):
        _check_finite(path, name, column)
    if name != "segments" and column.type != expected.type:
        column = _cast(path, name, column, expected.type)
    if name in _MINIMUM:
        _check_range(path, name, column, _MINIMUM[name])
    return column


_MINIMUM = {"call_index": 0, "num_output_tokens": 0, "arrival_s": 0, "tool_gap_s": 0}


def _cast(path: Path, name: str, column: pa.Array, expected: pa.DataType) -> pa.Array:
    try:
        return column.cast(expected)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise TraceError(path, name, f"values of type {column.type}", f"values of type {expected}") from None


def _check_finite(path: Path, name: str, column: pa.Array) -> None:
    values = numbers(column)
    bad = values[~np.isfinite(values)]
    if bad.size:
        raise TraceError(path, name, float(bad[0]), "a finite number")


def _check_range(path: Path, name: str, column: pa.Array, minimum: int) -> None:
    if column.null_count and not SCHEMA.names.count(name):
        raise TraceError(path, name, "null", f"a number ≥ {minimum}")
    if pa.types.is_floating(column.type):
        _check_finite(path, name, column)
    values = numbers(column)
    if values.size and values.min() < minimum:
        raise TraceError(path, name, values.min().item(), f"a number ≥ {minimum}")


def _open(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise TraceError(path, "file", "nothing", "an existing file")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TraceError(path, "file", str(error), "a Parquet file") from None


def _metadata(path: Path, file: pq.ParquetFile) -> TraceMetadata:
    raw = (file.schema_arrow.metadata or {}).get(METADATA_KEY) or (file.metadata.metadata or {}).get(
        METADATA_KEY
    )
    if raw is None:
        raise TraceError(
            path, "metadata", "no 'pbkv' entry", "a file made by `pbkv traces import` or `generate`"
        )
    try:
        metadata = TraceMetadata.from_json(raw)
    except (ValueError, TypeError, AttributeError):
        raise TraceError(path, "metadata", raw.decode(errors="replace"), "a JSON object") from None
    if metadata.schema_version != SCHEMA_VERSION:
        raise TraceError(path, "schema_version", metadata.schema_version, f"{SCHEMA_VERSION}")
    return metadata


def _check_columns(path: Path, schema: pa.Schema) -> None:
    for expected in SCHEMA:
        if expected.name not in schema.names:
            raise TraceError(path, "columns", f"no column {expected.name!r}", ", ".join(SCHEMA.names))
        found = schema.field(expected.name).type
        if not _is_readable_as(found, expected.type):
            raise TraceError(
                path, expected.name, f"values of type {found}", f"values of type {expected.type}"
            )


def _is_readable_as(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether values of type ``found`` are of the kind of ``expected``, in whatever width."""
    kinds = pa.types
    if kinds.is_struct(expected):
        names = [found.field(i).name for i in range(found.num_fields)] if kinds.is_struct(found) else []
        return all(f.name in names and _is_readable_as(found.field(f.name).type, f.type) for f in expected)
    if kinds.is_list(expected):
        return kinds.is_list(found) and _is_readable_as(found.value_type, expected.value_type)
    if kinds.is_string(expected):
        found = found.value_type if kinds.is_dictionary(found) else found
        return bool(kinds.is_string(found) or kinds.is_large_string(found))
    if kinds.is_floating(expected):
        return bool(kinds.is_floating(found) or kinds.is_integer(found))
    return bool(kinds.is_integer(found))
