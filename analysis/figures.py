"""The figures of a run: one idea each, units on the axes, PNG.

Each function writes to ``target``, a path or a binary file. matplotlib is imported when one is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pbkv.analysis.course import NUM_WINDOWS, Course, course_of
from pbkv.analysis.intervals import FloatArray, Interval
from pbkv.analysis.labels import distinct, shared
from pbkv.analysis.lines import apart, draw_bound, draw_lines, mark, scale_capacity, start_at_zero
from pbkv.analysis.load import Cell, Run
from pbkv.analysis.points import Point
from pbkv.analysis.style import CLASS_COLORS, INK, Target, look_of, new_figure, save
from pbkv.analysis.summary import CellSummary, over_seeds, summarise_cells
from pbkv.analysis.sums import TOKEN_CLASSES
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES_HEIGHT = 5.0  # inches: of the figures by capacity and by concurrency
COURSE_HEIGHT = 6.0
LINK_HEIGHT = 1.8  # more, where copies cross the link
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
_PERCENT = 100
_HIT_RATIO = "GPU hit ratio (% of prompt tokens)"
_LATENCY = "mean workflow latency (s)"
_TIER_STYLES = {"GPU": "-", "host": ":"}
_LINK_STYLES = {"host to GPU": "-", "GPU to host": ":"}


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
    points: Sequence[Point],
    target: Target,
    *,
    subtitle: str = "",
    infinite_ratio: float | None = None,
    knee: Point | None = None,
) -> None:
    """GPU hit ratio over GPU capacity, one line a policy; ``infinite_ratio`` draws the upper bound.

    Takes the results of `pbkv curve` as points, or a run's by ``capacity_points``; ``knee`` is marked.
    Raises ConfigError without points.
    """
    with new_figure(LINES_HEIGHT, "GPU hit ratio by GPU capacity", subtitle) as figure:
        axes = figure.subplots()
        draw_lines(axes, points, _PERCENT)
        axes.set(xlabel="GPU capacity (blocks)", ylabel=_HIT_RATIO)
        start_at_zero(axes, 102)
        if infinite_ratio is not None:
            draw_bound(axes, 100 * infinite_ratio)
            axes.set_ylim(top=min(102, max(axes.get_ylim()[1], 108 * infinite_ratio)))
        if knee is not None:
            mark(axes, knee, 100)
        scale_capacity(axes, sorted({point.x for point in points}))
        _legend_beside(axes)
        save(figure, target)


def latency_by_capacity(
    points: Sequence[Point], target: Target, *, subtitle: str = "", infinite_s: float | None = None
) -> None:
    """Mean workflow latency over GPU capacity, one line a policy; ``infinite_s`` draws the lower bound."""
    with new_figure(LINES_HEIGHT, "Workflow latency by GPU capacity", subtitle) as figure:
        axes = figure.subplots()
        draw_lines(axes, points, 1, lowest_is_best=True)
        axes.set(xlabel="GPU capacity (blocks)", ylabel=_LATENCY)
        start_at_zero(axes)
        if infinite_s is not None:
            draw_bound(axes, infinite_s)
        scale_capacity(axes, sorted({point.x for point in points}))
        _legend_beside(axes)
        save(figure, target)


def hit_ratio_by_concurrency(points: Sequence[Point], target: Target, *, subtitle: str = "") -> None:
    """GPU hit ratio over the number of concurrent workflows, one line a policy.

    Takes a run's points by ``concurrency_points``. Raises ConfigError without points.
    """
    with new_figure(LINES_HEIGHT, "GPU hit ratio by concurrency", subtitle) as figure:
        axes = figure.subplots()
        draw_lines(axes, points, _PERCENT)
        axes.set(xlabel="concurrent workflows", ylabel=_HIT_RATIO)
        start_at_zero(axes, 102)
        axes.set_xticks(apart(sorted({point.x for point in points})))
        _legend_beside(axes)
        save(figure, target)


def latency_by_concurrency(points: Sequence[Point], target: Target, *, subtitle: str = "") -> None:
    """Mean workflow latency over the number of concurrent workflows, one line a policy."""
    with new_figure(LINES_HEIGHT, "Workflow latency by concurrency", subtitle) as figure:
        axes = figure.subplots()
        draw_lines(axes, points, 1, lowest_is_best=True)
        axes.set(xlabel="concurrent workflows", ylabel=_LATENCY)
        start_at_zero(axes)
        axes.set_xticks(apart(sorted({point.x for point in points})))
        _legend_beside(axes)
        save(figure, target)


def course_of_run(
    run: Run, target: Target, *, cells: Sequence[int] | None = None, num_windows: int = NUM_WINDOWS
) -> None:
    """Hit ratio (num_hit_tokens of the samples), occupancy of both tiers and the link over simulated time.

    ``cells`` are cell numbers; without them, the first cell of each policy. The hit ratio is that of
    the prompt tokens seen in each of (at most) ``num_windows`` equal windows of a cell's time. Raises
    ConfigError for a cell without occupancy samples.
    """
    chosen = _chosen(run, cells)
    courses = [course_of(run, cell, num_windows) for cell in chosen]
    settings = [cell.setting for cell in chosen]
    num_panels = 3 if any(course.uses_link for course in courses) else 2
    height = COURSE_HEIGHT + (LINK_HEIGHT if num_panels == 3 else 0)
    title = "Course of the run: hit ratio" + (", occupancy and link" if num_panels == 3 else " and occupancy")
    with new_figure(height, title, shared(settings)) as figure:
        panels = figure.subplots(num_panels, 1, sharex=True, height_ratios=[3, 2, 2][:num_panels])
        for course, name in zip(courses, distinct(settings), strict=True):
            _course(panels, course, name)
        panels[0].set(ylim=(0, 102), ylabel="hit ratio in a window\n(% of prompt tokens)")
        panels[1].set(ylim=(0, 105), ylabel="used blocks\n(% of the tier)")
        panels[-1].set(xlabel="time since the start (s)")
        panels[-1].set_xlim(left=0)
        for axes in panels:
            axes.grid(axis="y")
        _legend_beside(panels[0])
        _legend_of_styles(panels[1], _TIER_STYLES)
        if num_panels == 3:
            panels[2].set(ylim=(0, None), ylabel="link busy\n(% of a window)")
            _legend_of_styles(panels[2], _LINK_STYLES)
        save(figure, target)


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def _legend_of_styles(axes: Axes, styles: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=INK, ls=style, label=name) for name, style in styles.items()]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def _stacked_classes(axes: Axes, cells: Sequence[CellSummary]) -> None:
    rows, left = np.arange(len(cells)), np.zeros(len(cells))
    for name in TOKEN_CLASSES:
        widths = np.array([_percent(getattr(cell, f"{name}_ratio")) for cell in cells])
        axes.barh(rows, widths, 0.7, left=left, color=CLASS_COLORS[name], label=_CLASS_NAMES[name])
        if name in ("gpu_hit", "evicted"):
            _write_inside(axes, widths, left)
        left = left + widths
    for row, cell in enumerate(cells):
        if cell.gpu_hit_ratio is None:
            axes.text(2, row, "not known", va="center", size=9)
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


def _chosen(run: Run, cells: Sequence[int] | None) -> list[Cell]:
    if cells is None:
        return list({cell.setting.policy: cell for cell in reversed(run.cells)}.values())[::-1]
    known = {cell.cell: cell for cell in run.cells}
    for number in cells:
        if number not in known:
            raise ConfigError("cell", number, f"a cell of the run: {', '.join(map(str, known))}")
    return [known[number] for number in cells]


def _course(panels: Sequence[Axes], course: Course, name: str) -> None:
    color = look_of(course.cell.setting.policy).color
    panels[0].plot(course.middles_s, 100 * course.hit_ratio, color=color, label=name)
    used = (course.gpu_used_ratio, course.host_used_ratio)
    for ratio, style in zip(used, _TIER_STYLES.values(), strict=True):
        if ratio is not None:
            panels[1].plot(course.at_s, 100 * ratio, color=color, ls=style, lw=1.2)
    if len(panels) == 3:
        busy = (course.h2d_ratio, course.d2h_ratio)
        for ratio, style in zip(busy, _LINK_STYLES.values(), strict=True):
            panels[2].plot(course.middles_s, 100 * ratio, color=color, ls=style, lw=1.2)
