"""Lines over capacity or concurrency, one a policy and variant, on axes that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pbkv.analysis.points import Point
from pbkv.analysis.style import FAINT, INK, look_of
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE_STYLES = ("-", "--", ":", "-.")


def draw_lines(axes: Axes, points: Sequence[Point], scale: float, *, lowest_is_best: bool = False) -> None:
    """One line a policy and variant, the best first in the legend."""
    if not points:
        raise ConfigError("points", "none", "at least one value to draw")
    lines: dict[tuple[str, str], list[Point]] = {}
    for point in sorted(points, key=lambda point: point.x):
        lines.setdefault((point.policy, point.variant), []).append(point)
    styles = {
        variant: _LINE_STYLES[i % 4] for i, variant in enumerate(dict.fromkeys(p.variant for p in points))
    }
    means = {key: float(np.mean([point.value.mean for point in line])) for key, line in lines.items()}
    for policy, variant in sorted(lines, key=means.__getitem__, reverse=not lowest_is_best):
        _line(axes, lines[policy, variant], styles[variant], scale)
    axes.grid(axis="y")


def _line(axes: Axes, line: Sequence[Point], style: str, scale: float) -> None:
    policy, variant = line[0].policy, line[0].variant
    look, means = look_of(policy), [scale * point.value.mean for point in line]
    halves = [scale * (point.value.half or 0) for point in line]
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


def start_at_zero(axes: Axes, most: float = math.inf) -> None:
    axes.set_ylim(0, min(most, 1.08 * axes.get_ylim()[1]))


def draw_bound(axes: Axes, value: float) -> None:
    axes.axhline(value, color=FAINT, ls=(0, (5, 3)), lw=1, label="infinite cache")


def mark(axes: Axes, point: Point, scale: float) -> None:
    """A ring around the point, and the word."""
    at = (point.x, scale * point.value.mean)
    axes.plot(*at, "o", ms=15, mfc="none", mec=INK, mew=1.2, zorder=5)
    axes.annotate("knee", at, xytext=(0, -14), textcoords="offset points", ha="center", va="top", size=9.5)


def scale_capacity(axes: Axes, capacities: Sequence[float]) -> None:
    """Powers of two at equal distances where the range is wide; the capacities themselves as ticks."""
    if capacities[-1] >= 8 * capacities[0]:
        axes.set_xscale("log", base=2)
        ticks = [2**power for power in apart([math.log2(capacity) for capacity in capacities])]
    else:
        ticks = apart(capacities)
    axes.set_xticks(ticks, [f"{capacity:,.0f}" for capacity in ticks])
    axes.set_xticks([], minor=True)


def apart(values: Sequence[float]) -> list[float]:
    """Of rising values those that leave room for a label each: at least a 14th of the axis apart."""
    kept = [values[0]]
    for value in values[1:]:
        if value - kept[-1] >= (values[-1] - values[0]) / 14:
            kept.append(value)
    return kept
