"""Sums over the calls of each workflow, in one pass over the tables of a run, without pandas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pbkv.analysis.intervals import FloatArray
from pbkv.analysis.load import Run

# The six classes of a prompt's tokens, best first: their column is num_<class>_tokens.
TOKEN_CLASSES = ("gpu_hit", "host_hit", "loading", "evicted", "partial", "cold")
HIT_CLASSES = ("gpu_hit", "host_hit", "loading")

_TOKENS = ("num_prompt_tokens", *(f"num_{name}_tokens" for name in TOKEN_CLASSES), "num_output_tokens")
_INSTANTS = ("submitted_at_s", "first_token_at_s", "ended_at_s")
# What is summed over the calls of each workflow: see _call_measures.
SUMS = (*_TOKENS, "ttft_s", "tpot_s", "num_calls", "num_ttft_calls", "num_tpot_calls")


class WorkflowSums:
    """Sums over the calls of each workflow of one cell, in the order of their first call."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}
        self._sums = np.zeros((len(SUMS), 0))

    @property
    def workflow_ids(self) -> list[str]:
        return list(self._index)

    def __getitem__(self, name: str) -> FloatArray:
        """The sum called ``name`` (of SUMS), shape (workflows,)."""
        row: FloatArray = self._sums[SUMS.index(name)]
        return row

    def mean(self, name: str, count: str) -> FloatArray:
        """``name`` over ``count`` by workflow; NaN for a workflow without such a call."""
        counts = self[count]
        means: FloatArray = np.full(len(counts), np.nan)
        np.divide(self[name], counts, out=means, where=counts > 0)
        return means

    def add(self, workflow_ids: Sequence[str], sums: FloatArray) -> None:
        """Add ``sums``, shape (len(SUMS), len(workflow_ids)); the ids differ from each other."""
        columns = [self._index.setdefault(name, len(self._index)) for name in workflow_ids]
        num_new = len(self._index) - self._sums.shape[1]
        self._sums = np.pad(self._sums, ((0, 0), (0, num_new)))
        self._sums[:, columns] += sums


class Spans(NamedTuple):
    """When each workflow of a cell was released and when it ended, each of shape (workflows,)."""

    released_at_s: FloatArray
    ended_at_s: FloatArray

    @property
    def jct_s(self) -> FloatArray:
        return self.ended_at_s - self.released_at_s

    @property
    def makespan_s(self) -> float:
        """First release to last end."""
        return float(np.max(self.ended_at_s) - np.min(self.released_at_s))


def workflow_sums(run: Run) -> dict[int, WorkflowSums]:
    """The sums of the calls table, by cell number."""
    cells: dict[int, WorkflowSums] = {}
    for batch in run.batches("calls", ["cell", "workflow_id", *_INSTANTS, *_TOKENS]):
        measures = _call_measures(batch)
        ids = batch.column("workflow_id").dictionary_encode()
        codes, names = _integers(ids.indices), ids.dictionary.to_pylist()
        for cell, rows in _by_cell(batch):
            present, local = np.unique(codes[rows], return_inverse=True)
            sums = [np.bincount(local, measure[rows], len(present)) for measure in measures]
            cells.setdefault(cell, WorkflowSums()).add(
                [names[code] for code in present], np.array(sums, np.float64)
            )
    return cells


def workflow_spans(run: Run) -> dict[int, Spans]:
    """The spans of the workflows table, by cell number."""
    parts: dict[int, list[Spans]] = {}
    for batch in run.batches("workflows", ["cell", *Spans._fields]):
        spans = Spans(*(_floats(batch.column(name)) for name in Spans._fields))
        for cell, rows in _by_cell(batch):
            parts.setdefault(cell, []).append(Spans(*(column[rows] for column in spans)))
    return {cell: Spans(*map(np.concatenate, zip(*found, strict=True))) for cell, found in parts.items()}


def _call_measures(batch: pa.RecordBatch) -> list[FloatArray]:
    """The columns that are summed, in the order of SUMS, each of shape (rows,)."""
    submitted, first, ended = (_floats(batch.column(name)) for name in _INSTANTS)
    tokens = [_floats(batch.column(name)) for name in _TOKENS]
    ttft, num_gaps = first - submitted, tokens[-1] - 1
    has_ttft = np.isfinite(ttft)
    has_tpot = has_ttft & (num_gaps >= 1)
    tpot = np.zeros(len(ttft))
    np.divide(ended - first, num_gaps, out=tpot, where=has_tpot)
    counts = [np.ones(len(ttft)), has_ttft.astype(np.float64), has_tpot.astype(np.float64)]
    return [*tokens, np.where(has_ttft, ttft, 0.0), tpot, *counts]


def _by_cell(batch: pa.RecordBatch) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    cells = _integers(batch.column("cell"))
    for cell in np.unique(cells):
        yield int(cell), cells == cell


# pyarrow's own `to_numpy` imports pandas wherever it is installed: 0.3 s and 40 MB; DLPack does not.


def _integers(column: pa.Array) -> NDArray[np.int64]:
    return np.from_dlpack(column).astype(np.int64)


def _floats(column: pa.Array) -> FloatArray:
    """The values as floats, null as NaN."""
    if column.null_count:
        return np.array(column.to_pylist(), np.float64)
    return np.from_dlpack(column).astype(np.float64, copy=False)
