"""How long cached prefixes lie idle: until they are evicted, until they are found, until they are missed.

Three measures of one thing, the time since a prefix was last used, in seconds:

    evicted   of an entry as its last copy went (event ``evict`` or ``drop``), weighted by its blocks
    found     of a call that found something: admitted_at_s − end of its workflow's call that ended last
              before that. What the workflow itself had cached is as old as that.
    missed    of a call that missed something evicted: ``evicted_ago_s``, since the first of it went
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pbkv.analysis.intervals import FloatArray
from pbkv.analysis.load import Cell, Run
from pbkv.analysis.sums import HIT_CLASSES

SHARES: FloatArray = np.linspace(0, 1, 101)


def ages(run: Run, cell: Cell) -> Mapping[str, FloatArray]:
    """The quantiles of each measure at `SHARES`, shape (101,); a measure without values is left out."""
    calls = run.calls[run.calls["cell"] == cell.cell]
    found = {"found": quantiles(idle_at_hits(calls))}
    if run.has("cache_events"):
        events = run.cache_events
        gone = events[(events["cell"] == cell.cell) & events["kind"].isin(["evict", "drop"])]
        found["evicted"] = quantiles(
            gone["age_s"].to_numpy(np.float64), gone["num_blocks"].to_numpy(np.float64)
        )
    found["missed"] = quantiles(calls["evicted_ago_s"].dropna().to_numpy(np.float64))
    return {name: values for name, values in found.items() if len(values)}


def idle_at_hits(calls: pd.DataFrame) -> FloatArray:
    """Of one cell's calls that found something, the seconds since their workflow's last call ended."""
    hits = calls[[f"num_{name}_tokens" for name in HIT_CLASSES]].sum(axis=1) > 0
    ended = calls[["workflow_id", "ended_at_s"]].sort_values("ended_at_s")
    admitted = calls.loc[hits, ["workflow_id", "admitted_at_s"]].dropna().sort_values("admitted_at_s")
    both = pd.merge_asof(
        admitted, ended, left_on="admitted_at_s", right_on="ended_at_s", by="workflow_id"
    ).dropna()
    idle: FloatArray = (both["admitted_at_s"] - both["ended_at_s"]).to_numpy(np.float64)
    return idle


def quantiles(values: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """The quantiles at `SHARES` of ``values``, each a value that occurs; empty for no values.

    A quantile at share q is the smallest value that has at least q of the weight at or below it.
    """
    if len(values) == 0:
        return np.empty(0)
    order = np.argsort(values, kind="stable")
    mass = np.cumsum(np.ones(len(values)) if weights is None else weights[order])
    at = np.searchsorted(mass, SHARES * mass[-1] * (1 - 1e-12), side="left")
    chosen: FloatArray = values[order][np.minimum(at, len(values) - 1)]
    return chosen
