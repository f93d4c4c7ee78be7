"""The figures of a run: one idea each, units on the axes, PNG.

Each function writes to ``target``, a path or a binary file. matplotlib is imported when one is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pbkv.analysis.intervals import FloatArray, Interval
from pbkv.analysis.labels import distinct, shared
from pbkv.analysis.load import Cell, Run, Setting
from pbkv.analysis.points import Point
from pbkv.analysis.style import CLASS_COLORS, FAINT, INK, Target, look_of, new_figure, save
from pbkv.analysis.summary import CellSummary, over_seeds, summarise_cells
from pbkv.analysis.sums import TOKEN_CLASSES
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LINES_HEIGHT = 5.0  # inches: of the figures by capacity and by concurrency
COURSE_HEIGHT = 6.0
_INCHES_PER_CELL = 0.42
_INCHES_AROUND_CELLS = 1.65
_CLASS_NAMES = {
    "gpu_hit": "GPU hit",
    "host_hit": "host hit",
    "loading": "loading",
    "evicted": "miss: evicted",
    "partial": "miss: partial block",
    "cold": "miss: cold",
}
_LINE_STYLES = ("-", "--", ":", "-.")
_TIER_STYLES = {"GPU": "-", "host": ":"}


def overview_height(num_settings: int) -> float:
    """The height of `policy_overview` for so many settings, in inches."""
    return _INCHES_AROUND_CELLS + _INCHES_PER_CELL * num_settings


def policy_overview(run: Run, target: Target) -> None:
    """What each setting finds in the cache, why it misses, and how long a workflow takes."""
    cells = over_seeds(summarise_cells(run))
    settings = [cell.setting for cell in cells]
    title = "Where prompt tokens are found, and how long workflows take"
    with new_figure(overview_height(len(cells)), title, shared(settings)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        _stacked_classes(left, cells)
        _latencies(right, cells)
        left.set_yticks(range(len(cells)), distinct(settings))
        left.set_ylim(len(cells) - 0.45, -0.55)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), columnspacing=1.4)
        save(figure, target)


def hit_ratio_by_capacity(
    points: Sequence[Point], target: Target, *, subtitle: str = "", infinite_ratio: float | None = None
) -> None:
    """GPU hit ratio over GPU capacity, one line a policy; ``infinite_ratio`` draws the upper bound.

    Takes the results of `pbkv curve` as points, or a run's by ``capacity_points``. Raises ConfigError
    without points.
    """
    with new_figure(LINES_HEIGHT, "GPU hit ratio by GPU capacity", subtitle) as figure:
        axes = figure.subplots()
        _lines(axes, points)
        axes.set_xlabel("GPU capacity (blocks)")
        if infinite_ratio is not None:
            axes.axhline(100 * infinite_ratio, color=FAINT, ls=(0, (5, 3)), lw=1, label="infinite cache")
            axes.set_ylim(top=min(102, max(axes.get_ylim()[1], 108 * infinite_ratio)))
        _scale_capacity(axes, sorted({point.x for point in points}))
        _legend_beside(axes)
        save(figure, target)


def hit_ratio_by_concurrency(points: Sequence[Point], target: Target, *, subtitle: str = "") -> None:
    """GPU hit ratio over the number of concurrent workflows, one line a policy.

    Takes a run's points by ``concurrency_points``. Raises ConfigError without points.
    """
    with new_figure(LINES_HEIGHT, "GPU hit ratio by concurrency", subtitle) as figure:
        axes = figure.subplots()
        _lines(axes, points)
        axes.set_xlabel("concurrent workflows")
        axes.set_xticks(_apart(sorted({point.x for point in points})))
        _legend_beside(axes)
        save(figure, target)


def course_of_run(
    run: Run, target: Target, *, cells: Sequence[int] | None = None, num_windows: int = 60
) -> None:
    """Hit ratio (num_hit_tokens of the samples) and occupancy of both tiers over simulated time.

    ``cells`` are cell numbers; without them, the first cell of each policy. The hit ratio is that of
    the prompt tokens seen in each of (at most) ``num_windows`` equal windows of a cell's time. Raises
    ConfigError for a cell without occupancy samples.
    """
    chosen = _chosen(run, cells)
    settings = [cell.setting for cell in chosen]
    with new_figure(COURSE_HEIGHT, "Course of the run: hit ratio and occupancy", shared(settings)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        for cell, name in zip(chosen, distinct(settings), strict=True):
            samples = run.occupancy[run.occupancy["cell"] == cell.cell]
            if samples.empty:
                raise ConfigError("cell", cell.cell, "a cell with occupancy samples")
            _course(upper, lower, cell.setting, samples, name, num_windows)
        upper.set(ylim=(0, 102), ylabel="hit ratio in a window\n(% of prompt tokens)")
        lower.set(ylim=(0, 105), ylabel="used blocks\n(% of the tier)", xlabel="time since the start (s)")
        lower.set_xlim(left=0)
        for axes in (upper, lower):
            axes.grid(axis="y")
        _legend_beside(upper)
        _legend_of_tiers(lower)
        save(figure, target)


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def _legend_of_tiers(axes: Axes) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=INK, ls=style, label=tier) for tier, style in _TIER_STYLES.items()]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def _stacked_classes(axes: Axes, cells: Sequence[CellSummary]) -> None:
    rows, left = np.arange(len(cells)), np.zeros(len(cells))
    for name in TOKEN_CLASSES:
        widths = np.array([_percent(getattr(cell, f"{name}_ratio")) for cell in cells])
        axes.barh(rows, widths, 0.7, left=left, color=CLASS_COLORS[name], label=_CLASS_NAMES[name])
        if name in ("gpu_hit", "evicted"):
            _write_inside(axes, widths, left)
        left = left + widths
    axes.set(xlim=(0, 100), xlabel="share of prompt tokens (%)")
    axes.tick_params(axis="y", length=0)


def _write_inside(axes: Axes, widths: FloatArray, left: FloatArray) -> None:
    for row, (width, start) in enumerate(zip(widths, left, strict=True)):
        if width >= 8:  # narrower bars have no room for the number
            axes.text(start + width / 2, row, f"{width:.1f}", color="white", ha="center", va="center", size=9)


def _latencies(axes: Axes, cells: Sequence[CellSummary]) -> None:
    ends = [cell.jct_s.high or cell.jct_s.mean if cell.jct_s else 0.0 for cell in cells]
    for row, (cell, end) in enumerate(zip(cells, ends, strict=True)):
        if cell.jct_s is not None:
            axes.barh(row, cell.jct_s.mean, 0.7, color=look_of(cell.setting.policy).color)
            _whisker(axes, row, cell.jct_s)
            axes.text(end + 0.02 * max(ends), row, _seconds(cell.jct_s), va="center", size=9)
    axes.set(xlim=(0, max(ends) * 1.35 or 1), xlabel="workflow latency (s, ± 95 %)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _whisker(axes: Axes, row: int, interval: Interval) -> None:
    """The interval as a line on a white ground, so that it is seen on dark bars too."""
    if interval.low is not None and interval.high is not None:
        for color, width in (("white", 4.5), (INK, 1.8)):
            ends = [interval.low, interval.high]
            axes.plot(ends, [row, row], color=color, lw=width, solid_capstyle="butt")


def _seconds(interval: Interval) -> str:
    decimals = 0 if interval.mean >= 100 else 1 if interval.mean >= 10 else 2
    half = "" if interval.half is None else f" ± {interval.half:.{decimals}f}"
    return f"{interval.mean:.{decimals}f}{half}"


def _percent(ratio: Interval | None) -> float:
    return 0.0 if ratio is None else 100 * ratio.mean


def _lines(axes: Axes, points: Sequence[Point]) -> None:
    """One line a policy and variant, the best first in the legend."""
    if not points:
        raise ConfigError("points", "none", "at least one hit ratio to draw")
    lines: dict[tuple[str, str], list[Point]] = {}
    for point in sorted(points, key=lambda point: point.x):
        lines.setdefault((point.policy, point.variant), []).append(point)
    styles = {
        variant: _LINE_STYLES[i % 4] for i, variant in enumerate(dict.fromkeys(p.variant for p in points))
    }
    best_first = sorted(lines, key=lambda key: -np.mean([point.hit_ratio.mean for point in lines[key]]))
    for policy, variant in best_first:
        _line(axes, lines[policy, variant], styles[variant])
    axes.set(ylabel="GPU hit ratio (% of prompt tokens)")
    axes.set_ylim(0, min(102, 1.08 * axes.get_ylim()[1]))
    axes.grid(axis="y")


def _line(axes: Axes, line: Sequence[Point], style: str) -> None:
    policy, variant = line[0].policy, line[0].variant
    look, means = look_of(policy), [100 * point.hit_ratio.mean for point in line]
    halves = [100 * (point.hit_ratio.half or 0) for point in line]
    axes.errorbar(
        [point.x for point in line],
        means,
        yerr=halves if any(halves) else None,
        color=look.color,
        marker=look.marker,
        ls=style,
        capsize=2.5,
        elinewidth=1,
        label=f"{policy} · {variant}" if variant else policy,
    )


def _scale_capacity(axes: Axes, capacities: Sequence[float]) -> None:
    """Powers of two at equal distances where the range is wide; the capacities themselves as ticks."""
    if capacities[-1] >= 8 * capacities[0]:
        axes.set_xscale("log", base=2)
        ticks = [2**power for power in _apart([math.log2(capacity) for capacity in capacities])]
    else:
        ticks = _apart(capacities)
    axes.set_xticks(ticks, [f"{capacity:,.0f}" for capacity in ticks])
    axes.set_xticks([], minor=True)


def _apart(values: Sequence[float]) -> list[float]:
    """Of rising values those that leave room for a label each: at least a 14th of the axis apart."""
    kept = [values[0]]
    for value in values[1:]:
        if value - kept[-1] >= (values[-1] - values[0]) / 14:
            kept.append(value)
    return kept


def _chosen(run: Run, cells: Sequence[int] | None) -> list[Cell]:
    if cells is None:
        return list({cell.setting.policy: cell for cell in reversed(run.cells)}.values())[::-1]
    known = {cell.cell: cell for cell in run.cells}
    for number in cells:
        if number not in known:
            raise ConfigError("cell", number, f"a cell of the run: {', '.join(map(str, known))}")
    return [known[number] for number in cells]


def _course(
    upper: Axes, lower: Axes, setting: Setting, samples: pd.DataFrame, name: str, num_windows: int
) -> None:
    at_s = samples["at_s"].to_numpy(np.float64)
    color = look_of(setting.policy).color
    middles, percent = _windowed_ratio(samples, at_s, max(1, min(num_windows, len(at_s) - 1)))
    upper.plot(middles, percent, color=color, label=name)
    tiers = {
        "GPU": ("gpu_used_blocks", setting.gpu_blocks),
        "host": ("host_used_blocks", setting.host_blocks),
    }
    for tier, (column, capacity) in tiers.items():
        if capacity > 0:
            used = 100 * samples[column].to_numpy(np.float64) / capacity
            lower.plot(at_s, used, color=color, ls=_TIER_STYLES[tier], lw=1.2)


def _windowed_ratio(
    samples: pd.DataFrame, at_s: FloatArray, num_windows: int
) -> tuple[FloatArray, FloatArray]:
    """Middles of the windows (s) and the hit ratio in each (%), NaN where no prompt was seen."""
    edges = np.linspace(at_s[0], at_s[-1], num_windows + 1)
    hits, seen = (
        np.diff(np.interp(edges, at_s, samples[name].to_numpy(np.float64)))
        for name in ("num_hit_tokens", "num_seen_prompt_tokens")
    )
    percent = np.full(num_windows, np.nan)
    np.divide(100 * hits, seen, out=percent, where=seen > 0)
    return (edges[1:] + edges[:-1]) / 2, percent
