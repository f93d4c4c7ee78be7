"""Reads canonical traces as a stream of workflows, checking each value on the way."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa

from pbkv.traces.columns import numbers
from pbkv.traces.errors import TraceError
from pbkv.traces.footer import check_columns, metadata_of, opened
from pbkv.traces.rows import Row, batch_rows, call_tokens, column_of
from pbkv.traces.schema import NEW_TEXTS, SCHEMA, Workflow

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
        self._file = opened(Path(path))
        self.metadata = metadata_of(self.path, self._file)
        check_columns(self.path, self._file.schema_arrow)

    @property
    def num_calls(self) -> int:
        return int(self._file.metadata.num_rows)

    def workflows(
        self, *, everything: bool = False, with_context: bool = False, with_text: bool = False
    ) -> Iterator[Workflow]:
        """Each workflow in file order; ``everything`` adds kinds, gap origins and context vectors.

        ``with_context`` adds only what predictors read: kinds, and context vectors as views of float32.
        ``with_text`` adds texts, where the file has them.
        Memory is that of one batch of calls, one workflow and the set of workflow ids. Raises
        TraceError at the first bad value.
        """
        columns = SCHEMA.names if everything else [*_NEEDED, *(_CONTEXT if with_context else ())]
        if with_text and NEW_TEXTS.name in self._file.schema_arrow.names:
            columns = [*columns, NEW_TEXTS.name]
        seen: set[str] = set()
        for workflow_id, rows in groupby(self._rows(columns, plain=everything), key=itemgetter(0)):
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
            tokens = call_tokens(self.path, batch)
            row = int(tokens.argmax())
            if tokens[row] > longest[2]:
                where = (batch.column("workflow_id")[row].as_py(), batch.column("call_index")[row].as_py())
                longest = (*where, int(tokens[row]))
        return longest

    def is_in_arrival_order(self) -> bool:
        """Whether arrivals are known and never fall from row to row. Raises TraceError if one is null."""
        last_s = 0.0
        for batch in self._batches(["arrival_s"]):
            column = column_of(self.path, batch, "arrival_s")
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
        return {agent for batch in batches for agent in column_of(self.path, batch, "agent").to_pylist()}

    def num_context_dims(self) -> int | None:
        """The length of the first context vector; None if no call has one."""
        for batch in self._batches(["context"]):
            lists = batch.column("context")
            if lists.null_count < len(lists):
                return len(next(row for row in lists if row.is_valid))
        return None

    def _rows(self, columns: list[str], *, plain: bool) -> Iterator[Row]:
        for batch in self._batches(columns):
            yield from batch_rows(self.path, batch, plain=plain)

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Not threaded: a batch takes a millisecond, a thread's memory stays."""
        try:
            yield from self._file.iter_batches(_CALLS_PER_BATCH, columns=columns, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise TraceError(self.path, "file", str(error), "a whole Parquet file") from None


def _workflow(workflow_id: str, rows: list[Row]) -> Workflow:
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
