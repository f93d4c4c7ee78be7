"""Simulated against replayed: the same workflows, settings and seeds in both worlds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pbkv.analysis.intervals import FloatArray, Interval, ratio_interval
from pbkv.analysis.load import Cell
from pbkv.analysis.metrics import matched, values, weights
from pbkv.analysis.style import FAINT, Target, look_of, new_figure, save
from pbkv.analysis.view import View
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("jct_s", "ttft_s", "hit_ratio")
HEIGHT_INCHES = 5.4


@dataclass(frozen=True)
class Agreement:
    """A cell in both worlds: by measure the ratio replayed / simulated, paired by workflow, 95 %.

    ``latencies`` has shape (workflows, 2): simulated and replayed, in seconds.
    """

    simulated: Cell
    name: str  # of the simulated world
    ratios: dict[str, Interval | None]
    means: dict[str, tuple[float, float]]  # simulated, replayed
    latencies: FloatArray

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        setting = self.simulated.setting
        row: dict[str, Any] = {"policy": setting.policy, "gpu_blocks": setting.gpu_blocks, "of": self.name}
        for measure, ratio in self.ratios.items():
            row[f"{measure}_simulated"], row[f"{measure}_replayed"] = self.means[measure]
            row[f"{measure}_ratio"] = None if ratio is None else ratio.mean
            row[f"{measure}_ratio_half"] = None if ratio is None else ratio.half
        return row


def agreements(views: Sequence[View]) -> list[Agreement]:
    """Each cell that was both simulated and replayed, of worlds over the same traces."""
    return [
        _agreement(simulated, mine, replayed, theirs)
        for simulated in views
        for replayed in views
        if replayed.world.is_replay and not simulated.world.is_replay
        if simulated.world.digests == replayed.world.digests
        for mine in simulated.world.run.cells
        for theirs in replayed.world.run.cells
        if (mine.setting, mine.seed) == (theirs.setting, theirs.seed)
    ]


def agreement_figure(found: Sequence[Agreement], target: Target) -> None:
    """One dot a workflow: its latency simulated and replayed; on the line they are equal."""
    if not found:
        raise ConfigError("agreements", "none", "a cell that was simulated and replayed")
    with new_figure(
        HEIGHT_INCHES, "Workflow latency, simulated and replayed", "one dot a workflow"
    ) as figure:
        axes = figure.subplots()
        most = 1.05 * max(float(np.max(agreement.latencies)) for agreement in found)
        axes.plot([0, most], [0, most], color=FAINT, lw=1, ls=(0, (5, 3)), label="equal")
        for policy in dict.fromkeys(agreement.simulated.setting.policy for agreement in found):
            mine = [a.latencies for a in found if a.simulated.setting.policy == policy]
            x, y = np.concatenate(mine).T
            look = look_of(policy)
            axes.plot(x, y, look.marker, color=look.color, ms=4, alpha=0.6, label=policy)
        axes.set(xlim=(0, most), ylim=(0, most), aspect="equal")
        axes.set(xlabel="simulated latency (s)", ylabel="replayed latency (s)")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
        save(figure, target)


def _agreement(simulated: View, mine: Cell, replayed: View, theirs: Cell) -> Agreement:
    left, right = _rows(replayed, theirs), _rows(simulated, mine)
    ratios, means = {}, {}
    for measure in MEASURES:
        both = matched(left, right, measure)
        new, old = values(both, measure), values(both, measure, "_baseline")
        ratios[measure] = ratio_interval(new, old)
        means[measure] = (
            _mean(old, weights(both, measure, "_baseline")),
            _mean(new, weights(both, measure)),
        )
    both = matched(left, right, "jct_s")
    latencies = both[["jct_s_baseline", "jct_s"]].to_numpy(np.float64)
    return Agreement(mine, simulated.world.name, ratios, means, latencies)


def _mean(part: FloatArray, weighed: FloatArray) -> float:
    """NaN where no workflow defines the measure in both worlds."""
    return float(part.sum() / weighed.sum()) if len(part) else float("nan")


def _rows(view: View, cell: Cell) -> pd.DataFrame:
    return view.frame[view.frame["cell"] == cell.cell]
