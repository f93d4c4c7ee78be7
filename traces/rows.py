"""Record batches of a trace as calls, each value checked on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pbkv.traces.columns import numbers
from pbkv.traces.errors import TraceError
from pbkv.traces.schema import NEW_TEXTS, SCHEMA, Call

Row = tuple[str, str, float | None, Call]  # workflow id, app, arrival (s), call


def batch_rows(path: Path, batch: pa.RecordBatch, *, plain: bool) -> Iterator[Row]:
    """``plain``: context vectors as lists and not as views."""
    columns = {name: column_of(path, batch, name) for name in batch.schema.names}
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
        _new_texts(path, columns.get(NEW_TEXTS.name), num_rows),
    )
    arrivals = columns["arrival_s"].to_pylist()
    return zip(columns["workflow_id"].to_pylist(), columns["app"].to_pylist(), arrivals, calls, strict=True)


def call_tokens(path: Path, batch: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens that each row's call holds at its end (`Call.num_held_tokens`)."""
    starts, flat = _flat(path, "segments", column_of(path, batch, "segments"))
    _check_range(path, "segments.num_tokens", flat.field(0), 1)
    tokens = np.concatenate(([0], np.cumsum(numbers(flat.field(0)), dtype=np.int64)))
    outputs = numbers(column_of(path, batch, "num_output_tokens"))
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


def _new_texts(
    path: Path, lists: pa.ListArray | None, num_rows: int
) -> Iterable[list[tuple[int, str]] | None]:
    if lists is None:
        return repeat(None, num_rows)
    starts, pairs = _flat(path, NEW_TEXTS.name, lists)
    flat = list(zip(pairs.field(0).to_pylist(), pairs.field(1).to_pylist(), strict=True))
    return [flat[a:b] for a, b in pairwise(starts.tolist())]


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


def column_of(path: Path, batch: pa.RecordBatch, name: str) -> pa.Array:
    """One column in its canonical type, checked."""
    column = batch.column(name)
    expected = NEW_TEXTS if name == NEW_TEXTS.name else SCHEMA.field(name)
    if not expected.nullable and column.null_count:
        raise TraceError(path, name, "null", f"a value in each row ({expected.type})")
    if pa.types.is_floating(column.type):
        _check_finite(path, name, column)
    if name not in ("segments", NEW_TEXTS.name) and column.type != expected.type:
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
