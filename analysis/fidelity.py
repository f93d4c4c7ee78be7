"""How near a simulated run is to replays of the same cells: errors, hits, decisions, ranking.

Cells are matched by policy, capacities, load, block size, write mode and seed; calls by workflow and
index. An error is simulated / replayed − 1. Several replays are repeats of one another: errors are of
their mean, and their spread says how far a machine agrees with itself. Imports pandas where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pbkv.analysis.decision_logs import LOGS, LogMatch, entries_of, match
from pbkv.analysis.load import Cell, Run, Setting
from pbkv.analysis.ranking import Ranking, rank
from pbkv.analysis.sides import check_same_traces
from pbkv.analysis.sums import HIT_CLASSES
from pbkv.traces.errors import ConfigError, TraceError

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("ttft_s", "ttft_p99_s", "tpot_s", "jct_s", "makespan_s")
PAIRED = ("ttft_s", "tpot_s", "jct_s")  # compared call by call, or workflow by workflow
BARS: Mapping[str, float] = {
    "ttft_s": 0.05,
    "ttft_p99_s": 0.10,
    "tpot_s": 0.03,
    "jct_s": 0.05,
    "makespan_s": 0.05,
}
CPU_JCT_BAR = 0.10  # a CPU shares its cores with whatever else runs

_Key = tuple[Setting, int]


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure, simulated and in each repeat, over the calls that both have; in seconds.

    NaN where it is not defined: TPOT where every call makes one token.
    """

    simulated: tuple[float, ...]
    replayed: tuple[float, ...]

    @property
    def error(self) -> float:
        """Of the mean of the repeats."""
        one, other = float(np.mean(self.simulated)), float(np.mean(self.replayed))
        return _relative(one - other, other)

    @property
    def spread(self) -> float | None:
        """(largest − smallest) / mean of the repeats; None with one."""
        if len(self.replayed) < 2:
            return None
        return _relative(max(self.replayed) - min(self.replayed), float(np.mean(self.replayed)))


@dataclass(frozen=True, slots=True)
class Compared:
    """One cell. ``paired_errors``: Σ|simulated − replayed| / Σ replayed over calls (of jct_s: workflows).

    ``equal_hits_share`` of the calls found as many cached tokens; ``num_unmatched_calls`` are in one run
    and not in the other; ``stopped`` says why a run did not finish the cell. Paired errors and the share
    are means over the repeats; ``logs`` has a match a repeat, or none where a run has no cache events.
    """

    setting: Setting
    seed: int
    num_calls: int
    num_unmatched_calls: int
    measures: Mapping[str, Measured]
    paired_errors: Mapping[str, float]
    equal_hits_share: float
    hit_tokens: tuple[float, float]  # simulated, mean of the repeats; NaN where not known
    logs: Mapping[str, Sequence[LogMatch]]
    bars: Mapping[str, float]
    stopped: str = ""

    def reaches(self, measure: str) -> bool | None:
        """Whether the error is within its bar; None where a run does not know the measure."""
        found = self.measures[measure]
        if np.isnan([*found.simulated, *found.replayed]).any():
            return None
        return abs(found.error) <= self.bars[measure]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """``unmatched`` names cells that are not in every run: (cell in words, where it is missing)."""

    cells: tuple[Compared, ...]
    rankings: tuple[Ranking, ...]
    unmatched: tuple[tuple[str, str], ...]
    num_repeats: int
    baseline: str


def compare(simulated: Run, replays: Sequence[Run], *, baseline: str = "lru") -> Fidelity:
    """Hold ``simulated`` against one or more ``replays`` of the same traces.

    Raises TraceError for a run of another trace, or without a cell in common; ConfigError for a baseline
    that is in no cell (of the default it is no error: there are no speedups then).
    """
    for run in replays:
        check_same_traces(simulated, run)
    known = [_by_key(run) for run in (simulated, *replays)]
    keys = [key for key in known[0] if all(key in cells for cells in known)]
    if not keys:
        expected = "a cell of the same policy, capacities, load, block size and seed"
        raise TraceError(replays[0].path, "cells", "none in common", f"{expected} as in {simulated.path}")
    policies = dict.fromkeys(setting.policy for setting, _ in keys)
    if baseline not in (*policies, "lru"):
        raise ConfigError("baseline", baseline, f"a policy of both runs: {', '.join(policies)}")
    frames = [_Frames(run) for run in (simulated, *replays)]
    compared = [_compared(key, [cells[key] for cells in known], frames) for key in keys]
    return Fidelity(
        tuple(compared),
        tuple(_rankings(compared, baseline)),
        tuple(_unmatched(known, (simulated, *replays))),
        len(replays),
        baseline,
    )


class _Frames:
    """A run's calls, workflows and events by cell number."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.calls = dict(list(run.calls.groupby("cell")))
        self.workflows = dict(list(run.workflows.groupby("cell")))
        self.events = dict(list(run.cache_events.groupby("cell"))) if run.has("cache_events") else None

    def calls_of(self, cell: Cell) -> pd.DataFrame:
        """ttft_s, tpot_s and hit_tokens of each call, NaN where not known."""
        rows = self.calls.get(cell.cell, self.run.calls[:0]).set_index(["workflow_id", "call_index"])
        frame = rows[["first_token_at_s", "ended_at_s", "num_output_tokens"]].copy()
        frame["ttft_s"] = rows["first_token_at_s"] - rows["submitted_at_s"]
        num_gaps = (rows["num_output_tokens"] - 1).where(rows["num_output_tokens"] > 1)
        frame["tpot_s"] = (rows["ended_at_s"] - rows["first_token_at_s"]) / num_gaps
        hits = rows[[f"num_{name}_tokens" for name in HIT_CLASSES]]
        frame["hit_tokens"] = hits.sum(axis=1).where(hits.notna().any(axis=1))
        return frame[["ttft_s", "tpot_s", "hit_tokens"]]

    def jct_s(self, cell: Cell) -> pd.Series[float]:
        rows = self.workflows.get(cell.cell, self.run.workflows[:0]).set_index("workflow_id")
        return rows["ended_at_s"] - rows["released_at_s"]

    def makespan_s(self, cell: Cell) -> float:
        rows = self.workflows.get(cell.cell)
        return float("nan") if rows is None else rows["ended_at_s"].max() - rows["released_at_s"].min()

    def stopped(self, cell: Cell) -> str:
        entries: Sequence[Mapping[str, Any]] = self.run.config["cells"]
        found = next(entry for entry in entries if entry["cell"] == cell.cell)
        return str(found.get("stopped", ""))


def _compared(key: _Key, cells: Sequence[Cell], frames: Sequence[_Frames]) -> Compared:
    first, *others = (_CellFrames(found, cell) for found, cell in zip(frames, cells, strict=True))
    pairs = [_Pair(first, other) for other in others]
    names = [name for name in LOGS if all(cell.events is not None for cell in (first, *others))]
    is_cpu = any(_is_cpu(found.run) for found in frames[1:])
    return Compared(
        *key,
        num_calls=min(len(pair.calls) for pair in pairs),
        num_unmatched_calls=max(pair.num_unmatched for pair in pairs),
        measures={
            name: Measured(*zip(*(pair.measure(name) for pair in pairs), strict=True)) for name in MEASURES
        },
        paired_errors={name: float(np.mean([pair.paired_error(name) for pair in pairs])) for name in PAIRED},
        equal_hits_share=float(np.mean([pair.equal_hits_share for pair in pairs])),
        hit_tokens=(first.num_hit_tokens, float(np.mean([other.num_hit_tokens for other in others]))),
        logs={name: [match(first.log(name), other.log(name)) for other in others] for name in names},
        bars={**BARS, "jct_s": CPU_JCT_BAR} if is_cpu else BARS,
        stopped="; ".join(dict.fromkeys(cell.stopped for cell in (first, *others) if cell.stopped)),
    )


class _CellFrames:
    def __init__(self, frames: _Frames, cell: Cell) -> None:
        self.calls, self.jct_s = frames.calls_of(cell), frames.jct_s(cell)
        self.makespan_s, self.stopped = frames.makespan_s(cell), frames.stopped(cell)
        self.events: pd.DataFrame | None = None
        if frames.events is not None:
            self.events = frames.events.get(cell.cell, frames.run.cache_events[:0])

    @property
    def num_hit_tokens(self) -> float:
        return float(self.calls["hit_tokens"].sum(min_count=1))

    def log(self, name: str) -> list[tuple[object, ...]]:
        assert self.events is not None
        return entries_of(self.events, name)


class _Pair:
    """One cell, simulated and in one repeat; columns end in _one and _other."""

    def __init__(self, one: _CellFrames, other: _CellFrames) -> None:
        self.calls = one.calls.merge(
            other.calls, left_index=True, right_index=True, suffixes=("_one", "_other")
        )
        self.jct_s = one.jct_s.to_frame("jct_s_one").join(other.jct_s.to_frame("jct_s_other"), how="inner")
        self.num_unmatched = len(one.calls) + len(other.calls) - 2 * len(self.calls)
        self._makespans_s = (one.makespan_s, other.makespan_s)

    def measure(self, name: str) -> tuple[float, float]:
        if name == "makespan_s":
            return self._makespans_s
        both = self._both(name.replace("_p99", ""))
        if not len(both):
            return float("nan"), float("nan")
        summary = both.quantile(0.99) if "_p99" in name else both.mean()
        return float(summary.iloc[0]), float(summary.iloc[1])

    def paired_error(self, name: str) -> float:
        both = self._both(name)
        return _relative(float((both.iloc[:, 0] - both.iloc[:, 1]).abs().sum()), float(both.iloc[:, 1].sum()))

    @property
    def equal_hits_share(self) -> float:
        """NaN where the replay does not know what was cached."""
        both = self._both("hit_tokens")
        return float((both.iloc[:, 0] == both.iloc[:, 1]).mean())

    def _both(self, name: str) -> pd.DataFrame:
        frame = self.jct_s if name == "jct_s" else self.calls
        return frame[[f"{name}_one", f"{name}_other"]].dropna()


def _rankings(cells: Sequence[Compared], baseline: str) -> list[Ranking]:
    """A ranking for each capacity and load with two policies at least, over the seeds that all have."""
    groups: dict[Setting, dict[str, dict[int, Measured]]] = {}
    for cell in cells:
        group = groups.setdefault(replace(cell.setting, policy="", policy_note=""), {})
        group.setdefault(cell.setting.policy, {})[cell.seed] = cell.measures["jct_s"]
    found = (_ranking(setting, policies, baseline) for setting, policies in groups.items())
    return [ranking for ranking in found if ranking is not None]


def _ranking(
    setting: Setting, policies: Mapping[str, Mapping[int, Measured]], baseline: str
) -> Ranking | None:
    seeds = set.intersection(*map(set, policies.values()))
    if len(policies) < 2 or not seeds:
        return None
    kept = {policy: [found[seed] for seed in sorted(seeds)] for policy, found in policies.items()}
    simulated = {name: float(np.mean([cell.simulated for cell in found])) for name, found in kept.items()}
    repeats = {name: np.mean([cell.replayed for cell in found], axis=0) for name, found in kept.items()}
    if not all(np.isfinite([simulated[name], *repeats[name]]).all() for name in kept):
        return None  # a cell that stopped before its first workflow's end
    return rank(setting, simulated, {name: times.tolist() for name, times in repeats.items()}, baseline)


def _by_key(run: Run) -> dict[_Key, Cell]:
    return {(cell.setting, cell.seed): cell for cell in run.cells}


def _unmatched(known: Sequence[Mapping[_Key, Cell]], runs: Sequence[Run]) -> list[tuple[str, str]]:
    every = dict.fromkeys(key for cells in known for key in cells)
    return [
        (cell_in_words(*key), str(run.path))
        for key in every
        for cells, run in zip(known, runs, strict=True)
        if key not in cells
    ]


def cell_in_words(setting: Setting, seed: int) -> str:
    load = "open loop" if setting.concurrency is None else f"{setting.concurrency} concurrent"
    sizes = f"GPU {setting.gpu_blocks:,} · host {setting.host_blocks:,} blocks of {setting.block_size}"
    return f"{setting.policy} · {sizes} · {setting.write_mode} · {load} · seed {seed}"


def _is_cpu(run: Run) -> bool:
    device = run.config.get("device")
    return isinstance(device, dict) and device.get("type") == "cpu"


def _relative(difference: float, whole: float) -> float:
    if difference == 0:
        return 0.0
    return difference / whole if whole else float("inf")
