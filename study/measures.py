"""What a cell is measured by: means, percentiles and ratios with 95 % intervals, and a digest of its records.

Means and ratios are those of `pbkv.analysis.summary`. Percentiles of latency are over workflows, those of
TTFT and TPOT over all calls of the cell, which is what a service level is usually written in. The interval of
a percentile is Woodruff's (1952): the interval of the share of values at or below it, by the ratio estimator
with workflows as clusters, read back through the observed distribution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pbkv.analysis.intervals import FloatArray, ratio_interval
from pbkv.analysis.load import load
from pbkv.analysis.summary import MEASURES, CellSummary, summarise_cells

if TYPE_CHECKING:
    from pbkv.analysis.load import Run
    from pbkv.serve.cell import CellResult

PERCENTILES = (50, 90, 95, 99)
TIMES = ("jct", "ttft", "tpot")
MEANS = tuple(name for name in MEASURES if name != "jct_p95_s")
COUNTS = ("num_workflows", "num_calls", "num_preemptions", "num_iterations", "num_pure_decodes")

_CALL_COLUMNS = (
    "workflow_id",
    "submitted_at_s",
    "first_token_at_s",
    "ended_at_s",
    "num_output_tokens",
    "num_gpu_hit_tokens",
    "num_host_hit_tokens",
)


def means_of(result: CellResult, out: Path) -> dict[str, Any]:
    """The means of a cell's measures, its counts, and what became of prefetches."""
    summary = summarise_cells(load(out))[0]
    means = {name: found.mean for name in MEASURES if (found := getattr(summary, name)) is not None}
    counts = {name: getattr(result, name) for name in (*COUNTS, "makespan_s", "loop_wall_s")}
    return {**means, **counts, **asdict(result.prefetch)}


def measured(result: CellResult, out: Path) -> dict[str, Any]:
    """All measures of a cell, each with its interval (``…_half``, or ``…_low`` and ``…_high``)."""
    run = load(out)
    calls = pa.Table.from_batches(list(run.batches("calls", _CALL_COLUMNS)))
    counts = {name: getattr(result, name) for name in (*COUNTS, "makespan_s")}
    return {
        **counts,
        **_means(summarise_cells(run)[0]),
        **_percentiles(run, calls),
        "prefetched_bytes": result.prefetch.started_bytes,
        "prefetched_useful_bytes": result.prefetch.useful_bytes,
        "records_digest": _digest(calls),
    }


def quantile_interval(
    values: FloatArray, clusters: NDArray[np.int64], share: float
) -> tuple[float, float, float]:
    """The quantile and the ends of its interval; ``clusters`` says to which workflow each value belongs."""
    quantile = float(np.quantile(values, share))
    sizes = np.bincount(clusters).astype(np.float64)
    below = np.bincount(clusters, weights=values <= quantile).astype(np.float64)
    found = ratio_interval(below, sizes)
    half = 0.0 if found is None or found.half is None else found.half
    low, high = np.quantile(values, [max(0.0, share - half), min(1.0, share + half)])
    return quantile, float(low), float(high)


def _means(summary: CellSummary) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in MEANS:
        interval = getattr(summary, name)
        found[name] = None if interval is None else interval.mean
        found[f"{name}_half"] = None if interval is None else interval.half
    return found


def _percentiles(run: Run, calls: pa.Table) -> dict[str, float]:
    spans = pa.Table.from_batches(list(run.batches("workflows", ("released_at_s", "ended_at_s"))))
    jct_s = _floats(spans, "ended_at_s") - _floats(spans, "released_at_s")
    workflows = calls["workflow_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    first_s, ended_s = _floats(calls, "first_token_at_s"), _floats(calls, "ended_at_s")
    later_tokens = _floats(calls, "num_output_tokens") - 1
    several = later_tokens >= 1
    values: Mapping[str, tuple[FloatArray, NDArray[np.int64]]] = {
        "jct": (jct_s, np.arange(len(jct_s))),
        "ttft": (first_s - _floats(calls, "submitted_at_s"), workflows),
        "tpot": ((ended_s - first_s)[several] / later_tokens[several], workflows[several]),
    }
    found: dict[str, float] = {}
    for name, (numbers, clusters) in values.items():
        for percentile in PERCENTILES if len(numbers) else ():
            column = f"{name}_p{percentile}_s"
            ends = quantile_interval(numbers, clusters, percentile / 100)
            found |= dict(zip((column, f"{column}_low", f"{column}_high"), ends, strict=True))
    return found


def _floats(table: pa.Table, name: str) -> FloatArray:
    values: FloatArray = table[name].to_numpy().astype(np.float64)
    return values


def _digest(calls: pa.Table) -> str:
    """Equal for equal simulations: of every call, when it ran and what it found."""
    digest = hashlib.sha256("\n".join(calls["workflow_id"].to_pylist()).encode())
    for name in _CALL_COLUMNS[1:]:
        digest.update(_floats(calls, name).tobytes())
    return digest.hexdigest()[:16]
