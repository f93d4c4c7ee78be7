"""The course of a cell: hit ratio, occupancy and use of the link over simulated time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pbkv.analysis.intervals import FloatArray
from pbkv.analysis.load import Cell, Run
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

NUM_WINDOWS = 60


@dataclass(frozen=True, slots=True)
class Course:
    """Ratios from 0 to 1; a tier that is not there has no occupancy.

    In each of n equal windows, at ``middles_s`` (shape (n,)): the hit ratio of the prompt tokens seen in
    it (NaN where there were none), and the shares of it that either direction of the link copied.
    At each sample, at ``at_s`` (shape (samples,)): the used share of each tier.
    """

    cell: Cell
    middles_s: FloatArray
    hit_ratio: FloatArray
    h2d_ratio: FloatArray
    d2h_ratio: FloatArray
    at_s: FloatArray
    gpu_used_ratio: FloatArray | None
    host_used_ratio: FloatArray | None

    @property
    def uses_link(self) -> bool:
        return bool(np.nansum(self.h2d_ratio) + np.nansum(self.d2h_ratio) > 0)


def course_of(run: Run, cell: Cell, num_windows: int = NUM_WINDOWS) -> Course:
    """The course of ``cell`` in at most ``num_windows`` windows. Raises ConfigError without samples."""
    samples = run.occupancy[run.occupancy["cell"] == cell.cell]
    if samples.empty:
        raise ConfigError("cell", cell.cell, "a cell with occupancy samples")
    at_s = samples["at_s"].to_numpy(np.float64)
    edges = np.linspace(at_s[0], at_s[-1], max(1, min(num_windows, len(at_s) - 1)) + 1)

    def grown(name: str) -> FloatArray:
        found: FloatArray = np.diff(np.interp(edges, at_s, samples[name].to_numpy(np.float64)))
        return found

    return Course(
        cell,
        (edges[1:] + edges[:-1]) / 2,
        _ratio(grown("num_hit_tokens"), grown("num_seen_prompt_tokens")),
        _ratio(grown("h2d_busy_s"), np.diff(edges)),
        _ratio(grown("d2h_busy_s"), np.diff(edges)),
        at_s,
        _used(samples, "gpu_used_blocks", cell.setting.gpu_blocks),
        _used(samples, "host_used_blocks", cell.setting.host_blocks),
    )


def _used(samples: pd.DataFrame, name: str, capacity: int) -> FloatArray | None:
    if capacity <= 0:
        return None
    used: FloatArray = samples[name].to_numpy(np.float64) / capacity
    return used


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    ratio: FloatArray = np.full(len(part), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
