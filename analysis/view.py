"""A world as a report looks at it: what is computed once, and the load that it looks at closely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from pbkv.analysis.intervals import Interval
from pbkv.analysis.load import Cell, Run, Setting
from pbkv.analysis.metrics import Pairing, by_workflow, pairings
from pbkv.analysis.points import Point, capacity_points, concurrency_points, knee
from pbkv.analysis.summary import CellSummary, over_seeds, summarise_cells
from pbkv.analysis.verdict import Verdict, baseline_of, load_of, verdicts
from pbkv.analysis.worlds import World, selected
from pbkv.cache.named import INFINITE

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class View:
    """``focus`` is the load whose cells are drawn one by one: see `_focus_of`."""

    world: World
    frame: pd.DataFrame  # `by_workflow`
    summaries: Sequence[CellSummary]  # one a setting
    verdicts: Sequence[Verdict]  # one a load
    baseline: str
    focus: Verdict

    @cached_property
    def focus_cells(self) -> list[Cell]:
        """The focus' cells, policies in the order of the run, all seeds."""
        load = load_of(self.focus.load)
        return [cell for cell in self.world.run.cells if load_of(cell.setting) == load]

    @cached_property
    def focus_run(self) -> Run:
        return selected(self.world.run, self.focus_cells)

    @cached_property
    def first_cells(self) -> list[Cell]:
        """Of the focus, one cell a policy: its first seed."""
        return list({cell.setting.policy: cell for cell in reversed(self.focus_cells)}.values())[::-1]

    def at(self, verdict: Verdict) -> list[CellSummary]:
        """The summaries of a load, policies in the order of the run."""
        load = load_of(verdict.load)
        return [cell for cell in self.summaries if load_of(cell.setting) == load]

    @cached_property
    def pairings(self) -> Mapping[tuple[Setting, str], Pairing]:
        """Each setting against the baseline of its load: by setting and measure (jct_s, ttft_s)."""
        found = {}
        for measure in ("jct_s", "ttft_s"):
            for baseline in {verdict.baseline for verdict in self.verdicts}:
                loads = {load_of(v.load) for v in self.verdicts if v.baseline == baseline}
                cells = [cell for cell in self.world.run.cells if load_of(cell.setting) in loads]
                for pairing in pairings(self.frame, cells, baseline, measure):
                    found[pairing.setting, measure] = pairing
        return found

    def along(self, axis: str) -> list[CellSummary]:
        """The settings that differ from the focus in nothing but policy and ``axis``.

        That is capacity (the host tier grows with it, or stays as it is) or concurrency.
        """
        focus = self.focus.load
        if axis == "concurrency":
            found = [
                cell for cell in self.summaries if _at_concurrency(cell.setting) == _at_concurrency(focus)
            ]
            return [cell for cell in found if cell.setting.concurrency is not None]
        same = [cell for cell in self.summaries if _at_capacity(cell.setting) == _at_capacity(focus)]
        by_ratio = [cell for cell in same if _host_ratio(cell.setting) == _host_ratio(focus)]
        by_size = [cell for cell in same if cell.setting.host_blocks == focus.host_blocks]
        return max(by_ratio, by_size, key=lambda cells: len({cell.setting.gpu_blocks for cell in cells}))

    def lines(self, axis: str, measure: str) -> tuple[list[Point], Interval | None]:
        """Points ``along`` an axis, and what an infinite cache has of the measure.

        Over capacity the infinite cache is no line, since it has the same everywhere: the first is taken.
        """
        if axis == "concurrency":
            return concurrency_points(self.along(axis), measure), None
        points = capacity_points(self.along(axis), measure)
        infinite = [point.value for point in points if point.policy == INFINITE]
        kept = [point for point in points if point.policy != INFINITE]
        return kept, infinite[0] if infinite else None

    @cached_property
    def knees(self) -> list[Point]:
        """Of each policy's hit ratio along capacity its knee; policies without one are left out."""
        points, infinite = self.lines("capacity", "gpu_hit_ratio")
        policies = dict.fromkeys(point.policy for point in points)
        lines = [[point for point in points if point.policy == policy] for policy in policies]
        top = None if infinite is None else infinite.mean
        return [found for line in lines if (found := knee(line, top)) is not None]


def view_of(world: World, baseline: str | None = None) -> View:
    """Everything that is computed once. ``baseline`` is used where it was run."""
    frame = by_workflow(world.run)
    chosen = baseline_of(world.run.cells, baseline)
    found = verdicts(frame, world.run.cells, chosen)
    summaries = over_seeds(summarise_cells(world.run))
    return View(world, frame, summaries, found, chosen, _focus_of(found))


def _focus_of(found: Sequence[Verdict]) -> Verdict:
    """Of the loads with most policies, where the best gains most; if none is worth it, the most pressed."""

    def rank(verdict: Verdict) -> tuple[int, float, float]:
        lost = 0.0 if verdict.lost_ratio is None else verdict.lost_ratio.mean
        is_won = verdict.word == "policy-bound" and verdict.best is not None
        gain = 1 - verdict.best.ratio.mean if is_won and verdict.best else 0.0
        return len(verdict.gains) + len(verdict.bounds), gain, lost

    return max(found, key=rank)


def _at_concurrency(setting: Setting) -> Setting:
    return replace(load_of(setting), concurrency=None)


def _at_capacity(setting: Setting) -> Setting:
    return replace(load_of(setting), gpu_blocks=0, host_blocks=0)


def _host_ratio(setting: Setting) -> float:
    return round(setting.host_blocks / setting.gpu_blocks, 2)
