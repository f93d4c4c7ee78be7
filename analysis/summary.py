"""One summary a cell, straight from the Parquet records: no pandas, one pass, a batch in memory.

Definitions (of a call, unless said otherwise):

    jct_s     ended_at_s − released_at_s, of a workflow
    ttft_s    first_token_at_s − submitted_at_s: mean over a workflow's calls, then over workflows
    tpot_s    (ended_at_s − first_token_at_s) / (num_output_tokens − 1), for two tokens or more; likewise
    *_ratio   Σ tokens of a class / Σ prompt tokens of the cell. ``hit_ratio`` counts what was on the
              GPU, came from the host, or was already on its way up; ``gpu_hit_ratio`` the first alone.
              The classes gpu_hit, host_hit, loading, evicted, partial and cold sum to 1.
    *_per_s   over the cell's makespan: first release to last end of a workflow

Intervals are 95 %: over the workflows of a cell, or, where a setting was run with several seeds, over
the seeds' means. The workflows of one run share a cache and are not independent: the interval over
workflows says how different workflows fared, the one over seeds how far another run would differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pbkv.analysis.intervals import Interval, mean_interval, ratio_interval
from pbkv.analysis.load import Cell, Run, Setting, load
from pbkv.analysis.sums import HIT_CLASSES, TOKEN_CLASSES, Spans, WorkflowSums, workflow_spans, workflow_sums
from pbkv.traces.errors import TraceError


@dataclass(frozen=True, slots=True)
class CellSummary:
    """The measures of one setting; None where no call or workflow defines the measure.

    ``seeds`` has one entry a run of the setting. With several, every interval is over seeds, and the
    two counts are totals.
    """

    setting: Setting
    seeds: tuple[int, ...]
    num_workflows: int
    num_calls: int
    jct_s: Interval | None
    jct_p95_s: Interval | None
    ttft_s: Interval | None
    tpot_s: Interval | None
    gpu_hit_ratio: Interval | None
    host_hit_ratio: Interval | None
    loading_ratio: Interval | None
    hit_ratio: Interval | None
    evicted_ratio: Interval | None
    partial_ratio: Interval | None
    cold_ratio: Interval | None
    workflows_per_s: Interval | None
    calls_per_s: Interval | None
    output_tokens_per_s: Interval | None


# The fields of CellSummary that are measures.
MEASURES = tuple(name for name in CellSummary.__dataclass_fields__ if name.endswith(("_s", "_ratio")))


def summarise(run_dir: Path | str) -> list[CellSummary]:
    """One summary a setting, in the order of run.json; intervals over seeds where there are several.

    Raises TraceError if the run cannot be read or a cell has no rows.
    """
    return over_seeds(summarise_cells(load(run_dir)))


def summarise_cells(run: Run) -> list[CellSummary]:
    """One summary a cell (a setting and a seed), in the order of run.json."""
    sums, spans = workflow_sums(run), workflow_spans(run)
    return [_summary(run, cell, sums.get(cell.cell), spans.get(cell.cell)) for cell in run.cells]


def over_seeds(cells: Sequence[CellSummary]) -> list[CellSummary]:
    """Join the summaries of one setting: mean ± Student's t interval over its runs, in the same order."""
    groups: dict[Setting, list[CellSummary]] = {}
    for cell in cells:
        groups.setdefault(cell.setting, []).append(cell)
    return [group[0] if len(group) == 1 else _joined(group) for group in groups.values()]


def _joined(group: Sequence[CellSummary]) -> CellSummary:
    def joined(name: str) -> Interval | None:
        found = [interval.mean for cell in group if (interval := getattr(cell, name)) is not None]
        return mean_interval(np.array(found))

    measures: dict[str, Any] = {name: joined(name) for name in MEASURES}
    return replace(
        group[0],
        seeds=tuple(seed for cell in group for seed in cell.seeds),
        num_workflows=sum(cell.num_workflows for cell in group),
        num_calls=sum(cell.num_calls for cell in group),
        **measures,
    )


def _summary(run: Run, cell: Cell, sums: WorkflowSums | None, spans: Spans | None) -> CellSummary:
    if sums is None or spans is None:
        table = "calls" if sums is None else "workflows"
        raise TraceError(run.path / f"{table}.parquet", f"rows of cell {cell.cell}", 0, "at least one")
    prompt, num_calls = sums["num_prompt_tokens"], int(np.sum(sums["num_calls"]))
    hits = np.sum([sums[f"num_{name}_tokens"] for name in HIT_CLASSES], axis=0)
    ratios = {f"{name}_ratio": ratio_interval(sums[f"num_{name}_tokens"], prompt) for name in TOKEN_CLASSES}
    return CellSummary(
        setting=cell.setting,
        seeds=(cell.seed,),
        num_workflows=len(spans.jct_s),
        num_calls=num_calls,
        jct_s=mean_interval(spans.jct_s),
        jct_p95_s=Interval(float(np.quantile(spans.jct_s, 0.95)), None, len(spans.jct_s)),
        ttft_s=_mean_of_means(sums, "ttft_s", "num_ttft_calls"),
        tpot_s=_mean_of_means(sums, "tpot_s", "num_tpot_calls"),
        hit_ratio=ratio_interval(hits, prompt),
        **ratios,
        workflows_per_s=_rate(len(spans.jct_s), spans.makespan_s),
        calls_per_s=_rate(num_calls, spans.makespan_s),
        output_tokens_per_s=_rate(float(np.sum(sums["num_output_tokens"])), spans.makespan_s),
    )


def _mean_of_means(sums: WorkflowSums, name: str, count: str) -> Interval | None:
    means = sums.mean(name, count)
    return mean_interval(means[np.isfinite(means)])


def _rate(total: float, makespan_s: float) -> Interval | None:
    return Interval(total / makespan_s, None, 1) if makespan_s > 0 else None
