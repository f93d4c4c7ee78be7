"""Two runs side by side: paired by workflow, with bootstrap intervals; what `pbkv compare` says.

A pair is a cell of A and a cell of B of the same setting and seed; where each side has one policy, or one
setting, that may differ: it is then what is compared. Of each measure the ratio B / A of the means is
given with a percentile bootstrap interval (Efron): workflows are drawn with replacement, a workflow with
both of its values. Over several seeds, first the seeds are drawn, then workflows in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pbkv.analysis.engines import SIMULATE, engine_of
from pbkv.analysis.intervals import CONFIDENCE, FloatArray
from pbkv.analysis.load import Cell, Run, Setting, load
from pbkv.analysis.metrics import by_workflow, check_measure, matched, values, weights
from pbkv.analysis.sides import check_same_traces
from pbkv.analysis.worlds import selected
from pbkv.traces.errors import ConfigError

NUM_RESAMPLES = 10_000
_BATCH = 500  # resamples drawn at once: bounds the memory
LOWER_IS_BETTER = {"jct_s", "ttft_s", "tpot_s"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of one setting: means of A and B, and B / A from ``low`` to ``high``.

    The interval is None for a single workflow. ``num_workflows`` counts pairs over all seeds,
    ``num_unpaired`` the workflows that only one side has. Where the engines differ, so may the ratio for it.
    """

    measure: str
    a: Setting
    b: Setting
    num_seeds: int
    num_workflows: int
    mean_a: float
    mean_b: float
    ratio: float
    low: float | None
    high: float | None
    num_unpaired: int = 0
    engine_a: str = SIMULATE
    engine_b: str = SIMULATE

    def is_worse(self, margin: float) -> bool:
        """Whether the whole interval says that B is worse than A by more than ``margin`` (0.02: 2 %)."""
        if self.low is None or self.high is None:
            return False
        return self.low > 1 + margin if self.measure in LOWER_IS_BETTER else self.high < 1 - margin


def open_side(text: str) -> Run:
    """A run's folder, or FOLDER:POLICY for the cells of one of its policies. Raises as `load` does."""
    if Path(text).exists() or ":" not in text:
        return load(text)
    folder, policy = _cut(text)
    run = load(folder)
    chosen = [cell for cell in run.cells if cell.setting.policy == policy]
    if not chosen:
        names = ", ".join(dict.fromkeys(cell.setting.policy for cell in run.cells))
        raise ConfigError("run", text, f"a policy of that run: {names}")
    return selected(run, chosen)


def _cut(text: str) -> tuple[str, str]:
    """The folder and the policy, whose name may hold colons itself: ttl:2, mine.py:Mine."""
    parts = text.split(":")
    cuts = [(":".join(parts[:at]), ":".join(parts[at:])) for at in range(len(parts) - 1, 0, -1)]
    return next((cut for cut in cuts if Path(cut[0]).is_dir()), cuts[0])


def compare(a: Run, b: Run, measures: Sequence[str], seed: int = 0) -> list[Comparison]:
    """Every setting that both have, in the order of A, each measure of it; equal seeds give equal results.

    Raises ConfigError for an unknown measure, and where no cell or no workflow of the two is a pair;
    TraceError for runs of different traces.
    """
    for measure in measures:
        check_measure(measure)
    check_same_traces(a, b)
    pairs = _pairs(a.cells, b.cells)
    if not pairs:
        raise ConfigError("runs", f"{a.path} and {b.path}", "a setting and seed that both have")
    frames = [dict(list(by_workflow(run).groupby("cell"))) for run in (a, b)]
    found = []
    for group in pairs:
        rows = [(frames[0][mine.cell], frames[1][other.cell]) for mine, other in group]
        settings = (group[0][0].setting, group[0][1].setting)
        num_unpaired = _num_unpaired(rows)
        found += [
            replace(
                _compared(measure, *settings, rows, seed),
                num_unpaired=num_unpaired,
                engine_a=engine_of(a.config),
                engine_b=engine_of(b.config),
            )
            for measure in measures
        ]
    return found


def _num_unpaired(rows: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> int:
    """Workflows that one side has alone. Raises ConfigError where none is on both."""
    sides = [[set(side["workflow_id"]) for side in pair] for pair in rows]
    if not any(mine & theirs for mine, theirs in sides):
        examples = " and ".join(repr(min(ids, default="none")) for ids in sides[0])
        raise ConfigError("workflow ids", examples, "at least one that both runs have")
    return sum(len(mine ^ theirs) for mine, theirs in sides)


def _pairs(a: Sequence[Cell], b: Sequence[Cell]) -> list[list[tuple[Cell, Cell]]]:
    """The pairs of cells, by setting of A."""
    reduced = _reduction(a, b)
    others = {(reduced(cell.setting), cell.seed): cell for cell in b}
    groups: dict[Setting, list[tuple[Cell, Cell]]] = {}
    for cell in a:
        other = others.get((reduced(cell.setting), cell.seed))
        if other is not None:
            groups.setdefault(cell.setting, []).append((cell, other))
    return list(groups.values())


def _reduction(a: Sequence[Cell], b: Sequence[Cell]) -> Callable[[Setting], Setting | None]:
    """What of a setting must be equal: nothing, all but the policy, or all."""
    sides = [_settings(side) for side in (a, b)]
    if all(len(settings) == 1 for settings in sides):
        return lambda setting: None
    if all(len({setting.policy for setting in settings}) == 1 for settings in sides):
        return lambda setting: replace(setting, policy="")
    return lambda setting: setting


def _settings(cells: Iterable[Cell]) -> set[Setting]:
    return {cell.setting for cell in cells}


def _compared(
    measure: str, a: Setting, b: Setting, rows: Sequence[tuple[pd.DataFrame, pd.DataFrame]], seed: int
) -> Comparison:
    pairs = [matched(theirs, mine, measure) for mine, theirs in rows]
    count = sum(map(len, pairs))
    if not count:
        expected = "a measure that some workflow has in both runs"
        raise ConfigError("measure", f"{measure}, which one of the runs does not know", expected)
    sides = [[values(both, measure, suffix) for both in pairs] for suffix in ("_baseline", "")]
    weighed = [[weights(both, measure, suffix) for both in pairs] for suffix in ("_baseline", "")]
    mean_a, mean_b = (_mean(side, weight) for side, weight in zip(sides, weighed, strict=True))
    low, high = _bootstrap(sides, weighed, seed)
    ratio = mean_b / mean_a if mean_a else float("nan")
    return Comparison(measure, a, b, len(pairs), count, mean_a, mean_b, ratio, low, high)


def _mean(side: Sequence[FloatArray], weighed: Sequence[FloatArray]) -> float:
    return float(np.concatenate(side).sum() / np.concatenate(weighed).sum())


def _bootstrap(
    sides: Sequence[Sequence[FloatArray]], weighed: Sequence[Sequence[FloatArray]], seed: int
) -> tuple[float | None, float | None]:
    """Ends of the interval of the ratio of means; ``sides[s][k]`` are the values of side s and seed k."""
    if sum(map(len, sides[0])) < 2:
        return None, None
    rng = np.random.default_rng(seed)
    ratios = np.concatenate([_resampled(sides, weighed, rng) for _ in range(NUM_RESAMPLES // _BATCH)])
    if not np.isfinite(ratios).all():  # a draw without a single hit
        return None, None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(
    sides: Sequence[Sequence[FloatArray]], weighed: Sequence[Sequence[FloatArray]], rng: np.random.Generator
) -> FloatArray:
    """Ratios of _BATCH resamples, shape (_BATCH,)."""
    num_seeds = len(sides[0])
    sums = np.zeros((4, _BATCH))
    draws = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=_BATCH)
    for k in range(num_seeds):
        count = len(sides[0][k])
        if count:
            times = rng.multinomial(count, np.full(count, 1 / count), size=_BATCH)
            for row, column in enumerate((sides[1][k], weighed[1][k], sides[0][k], weighed[0][k])):
                sums[row] += draws[:, k] * (times @ column)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: FloatArray = (sums[0] / sums[1]) / (sums[2] / sums[3])
    return ratios
