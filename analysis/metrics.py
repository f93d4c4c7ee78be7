"""Tidy frames of a run's measures: by workflow, by cell, by miss reason, and paired between policies.

Definitions and intervals are those of `pbkv.analysis.summary`. Imports pandas: import this module
inside the function that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pbkv.analysis.intervals import CONFIDENCE, FloatArray, Interval, mean_interval, ratio_interval
from pbkv.analysis.load import Cell, Run, Setting
from pbkv.analysis.summary import MEASURES, CellSummary, over_seeds, summarise_cells
from pbkv.analysis.sums import HIT_CLASSES, SUMS, TOKEN_CLASSES, WorkflowSums, workflow_sums
from pbkv.traces.errors import ConfigError

MISS_REASONS = tuple(name for name in TOKEN_CLASSES if name not in HIT_CLASSES)
_TIMES = ("jct_s", "ttft_s", "tpot_s")
_RATIOS: Mapping[str, Sequence[str]] = {
    "gpu_hit_ratio": ("gpu_hit",),
    "host_hit_ratio": ("host_hit",),
    "hit_ratio": HIT_CLASSES,
}
MEASURES_OF_WORKFLOWS = (*_TIMES, *_RATIOS)


def by_workflow(run: Run) -> pd.DataFrame:
    """One row a cell and workflow: the cell's setting and seed, jct_s, ttft_s, tpot_s, num_* sums.

    ttft_s and tpot_s are means over the workflow's calls, NaN where no call defines them.
    """
    sums = workflow_sums(run)
    calls = pd.concat([_cell_frame(cell, sums[cell.cell]) for cell in run.cells if cell.cell in sums])
    spans = run.workflows[["cell", "workflow_id", "app", "released_at_s", "ended_at_s"]]
    joined = spans.merge(calls, on=["cell", "workflow_id"], validate="one_to_one")
    joined["jct_s"] = joined["ended_at_s"] - joined["released_at_s"]
    return joined


def by_cell(run: Run) -> pd.DataFrame:
    """One row a setting: its fields, the number of seeds, and each measure with its ``…_half``.

    A half interval is NaN where the data tell nothing of it; see `pbkv.analysis.summary`.
    """
    return _frame([_row(cell) for cell in over_seeds(summarise_cells(run))])


def miss_reasons(run: Run) -> pd.DataFrame:
    """One row a setting: of the prompt tokens not found in the cache, the share of each reason.

    The shares (evicted, partial, cold) sum to 1; over several seeds, of the tokens of all. NaN where
    nothing was missed.
    """
    sums = workflow_sums(run)
    totals: dict[Setting, FloatArray] = {}
    for cell in run.cells:
        tokens = [np.sum(sums[cell.cell][f"num_{name}_tokens"]) for name in MISS_REASONS]
        totals[cell.setting] = totals.get(cell.setting, np.zeros(len(tokens))) + np.array(tokens)
    return _frame([_miss_row(setting, tokens) for setting, tokens in totals.items()])


def paired(run: Run, baseline: str, measure: str = "jct_s") -> pd.DataFrame:
    """Every other policy against ``baseline`` at the same setting and seed, paired by workflow.

    ``measure`` is jct_s, ttft_s, tpot_s, gpu_hit_ratio, host_hit_ratio or hit_ratio. One row a
    setting: ``difference`` = policy − baseline (of ratios: in shares of the prompt tokens) and
    ``ratio`` = policy / baseline (of means), each with its 95 % ``…_half``: over the workflows of one
    seed, or over the seeds. Workflows that only one of the two has (or defines the measure for) are
    left out; ``num_workflows`` says how many were paired.

    Raises ConfigError for an unknown measure or a baseline without a comparable cell.
    """
    policies = list(dict.fromkeys(cell.setting.policy for cell in run.cells))
    if baseline not in policies:
        raise ConfigError("baseline", baseline, f"a policy of the run: {', '.join(policies)}")
    found = pairings(by_workflow(run), run.cells, baseline, measure)
    if not found:
        raise ConfigError("baseline", baseline, "another policy at the same setting and seed")
    return _frame([_paired_row(pairing, baseline, measure) for pairing in found])


@dataclass(frozen=True, slots=True)
class Pairing:
    """A setting against the same one under another policy: ``difference`` and ``ratio`` as in `paired`."""

    setting: Setting
    num_seeds: int
    num_workflows: int
    difference: Interval | None
    ratio: Interval | None


def pairings(
    frame: pd.DataFrame, cells: Sequence[Cell], baseline: str, measure: str, confidence: float = CONFIDENCE
) -> list[Pairing]:
    """As `paired`, of what `by_workflow` gave, with intervals of this ``confidence``; empty if none.

    Raises ConfigError for an unknown measure.
    """
    check_measure(measure)
    frames = dict(list(frame.groupby("cell")))
    baselines = {(cell.setting, cell.seed): cell for cell in cells if cell.setting.policy == baseline}
    groups: dict[Setting, list[_Pair]] = {}
    for cell in cells:
        other = baselines.get((replace(cell.setting, policy=baseline), cell.seed))
        if cell.setting.policy != baseline and other is not None:
            pair = _pair(frames[cell.cell], frames[other.cell], measure, confidence)
            groups.setdefault(cell.setting, []).append(pair)
    return [_pairing(setting, group, confidence) for setting, group in groups.items()]


def check_measure(measure: str) -> None:
    """Raises ConfigError for what is no measure of workflows."""
    if measure not in MEASURES_OF_WORKFLOWS:
        raise ConfigError("measure", measure, f"one of {', '.join(MEASURES_OF_WORKFLOWS)}")


class _Pair(NamedTuple):
    num_workflows: int
    difference: Interval | None
    ratio: Interval | None


def _pairing(setting: Setting, group: Sequence[_Pair], confidence: float) -> Pairing:
    return Pairing(
        setting,
        len(group),
        sum(pair.num_workflows for pair in group),
        _over([pair.difference for pair in group], confidence),
        _over([pair.ratio for pair in group], confidence),
    )


def _pair(policy: pd.DataFrame, baseline: pd.DataFrame, measure: str, confidence: float) -> _Pair:
    both = matched(policy, baseline, measure)
    mine, theirs = (values(both, measure, suffix) for suffix in ("", "_baseline"))
    difference = ratio_interval(mine - theirs, weights(both, measure), confidence)
    return _Pair(len(both), difference, ratio_interval(mine, theirs, confidence))


def matched(policy: pd.DataFrame, baseline: pd.DataFrame, measure: str) -> pd.DataFrame:
    """What the measure needs of two cells (rows of `by_workflow`), by workflow; the latter's ``…_baseline``.

    Workflows that only one has, or defines the measure for, are left out; so is one whose tokens are
    not known, as of a server that does not say what it had cached.
    """
    columns = ["workflow_id", "num_prompt_tokens", *_columns_of(measure)]
    theirs = baseline[columns]
    both = policy[columns].merge(theirs, "inner", "workflow_id", suffixes=("", "_baseline"), validate="1:1")
    return both.dropna()


def weights(both: pd.DataFrame, measure: str, suffix: str = "") -> FloatArray:
    """What a workflow counts: ratios are weighted by its prompt tokens, times are not weighted."""
    if measure in _TIMES:
        return np.ones(len(both))
    return both[f"num_prompt_tokens{suffix}"].to_numpy(np.float64)


def values(both: pd.DataFrame, measure: str, suffix: str = "") -> FloatArray:
    """The measure of each row: seconds, or the hit tokens, of which ``weights`` makes a ratio."""
    return both[[f"{name}{suffix}" for name in _columns_of(measure)]].sum(axis=1).to_numpy(np.float64)


def _columns_of(measure: str) -> list[str]:
    """What is summed for it."""
    return [f"num_{name}_tokens" for name in _RATIOS[measure]] if measure in _RATIOS else [measure]


def _paired_row(pairing: Pairing, baseline: str, measure: str) -> dict[str, object]:
    row: dict[str, object] = {
        **asdict(pairing.setting),
        "baseline": baseline,
        "measure": measure,
        "num_seeds": pairing.num_seeds,
        "num_workflows": pairing.num_workflows,
    }
    for name in ("difference", "ratio"):
        row |= _columns(name, getattr(pairing, name))
    return row


def _over(intervals: Sequence[Interval | None], confidence: float) -> Interval | None:
    """The one interval as it is; of several, the mean of their means and its interval."""
    if len(intervals) == 1:
        return intervals[0]
    means = np.array([interval.mean for interval in intervals if interval is not None])
    return mean_interval(means, confidence)


def _row(cell: CellSummary) -> dict[str, object]:
    row: dict[str, object] = {
        **asdict(cell.setting),
        "num_seeds": len(cell.seeds),
        "num_workflows": cell.num_workflows,
        "num_calls": cell.num_calls,
    }
    for name in MEASURES:
        row |= _columns(name, getattr(cell, name))
    return row


def _columns(name: str, interval: Interval | None) -> dict[str, object]:
    missing = float("nan")  # pandas' own word for "no value"
    mean = missing if interval is None else interval.mean
    half = missing if interval is None or interval.half is None else interval.half
    return {name: mean, f"{name}_half": half}


def _miss_row(setting: Setting, tokens: FloatArray) -> dict[str, object]:
    total = float(np.sum(tokens))
    shares = tokens / total if total else np.full(len(tokens), np.nan)
    names = (f"{name}_share" for name in MISS_REASONS)
    return {**asdict(setting), **dict(zip(names, shares, strict=True))}


def _frame(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"concurrency": "Int64"})  # nullable: the open loop has none


def _cell_frame(cell: Cell, sums: WorkflowSums) -> pd.DataFrame:
    counts = {name: _whole(sums[name]) for name in SUMS if name.startswith("num_")}
    frame = pd.DataFrame({"cell": cell.cell, "seed": cell.seed, "workflow_id": sums.workflow_ids, **counts})
    frame = frame.assign(**asdict(cell.setting)).astype({"concurrency": "Int64"})
    frame["ttft_s"] = sums.mean("ttft_s", "num_ttft_calls")
    frame["tpot_s"] = sums.mean("tpot_s", "num_tpot_calls")
    return frame


def _whole(counts: FloatArray) -> FloatArray | NDArray[np.int64]:
    """Counts as integers; as they are where some are not known (NaN)."""
    return counts.astype(np.int64) if np.isfinite(counts).all() else counts
