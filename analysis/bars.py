"""Bars and whiskers, one row a policy: differences, misses, and what became of prefetches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pbkv.analysis.intervals import FloatArray, Interval
from pbkv.analysis.style import CLASS_COLORS, FAINT, INK, Target, look_of, new_figure, save
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAIRED = "paired by workflow · mean and 95 % interval · left of 0 is faster"
_INCHES_PER_ROW = 0.44
_INCHES_AROUND = 1.75

MISS_NAMES = {
    "evicted": "evicted: was cached before",
    "partial": "partial: no full block",
    "cold": "cold: never cached",
}
# Good is blue, harmless grey, bad red, as among the classes of tokens.
PREFETCH_COLORS = {
    "useful": CLASS_COLORS["gpu_hit"],
    "late": CLASS_COLORS["loading"],
    "wasted": CLASS_COLORS["evicted"],
    "cancelled": CLASS_COLORS["cold"],
}
_PREFETCH_NAMES = {
    "useful": "useful: there when asked for",
    "late": "late: still on its way",
    "wasted": "wasted: evicted unused",
    "cancelled": "cancelled before it began",
}


class Row(NamedTuple):
    """A bar's name, its policy (for the colour) and its values by part."""

    name: str
    policy: str
    values: Mapping[str, float]


def differences(rows: Sequence[tuple[str, str, Interval]], target: Target, *, baseline: str) -> None:
    """Change of the mean latency against ``baseline``: (name, policy, ratio) a row, paired by workflow."""
    if not rows:
        raise ConfigError("differences", "none", "at least one policy besides the baseline")
    title = f"Workflow latency against {baseline}"
    with new_figure(_height(len(rows)), title, _PAIRED) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=INK, lw=1)
        for at, (_, policy, ratio) in enumerate(rows):
            look, mean, half = look_of(policy), 100 * (ratio.mean - 1), 100 * (ratio.half or 0)
            axes.errorbar(mean, at, xerr=half, color=look.color, marker=look.marker, ms=8, capsize=4, lw=2)
            axes.annotate(
                _change(mean, half),
                (mean, at),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                size=9,
            )
        axes.set(
            ylim=(len(rows) - 0.5, -0.7), xlabel=f"change of the mean workflow latency against {baseline} (%)"
        )
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.margins(x=0.12)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        save(figure, target)


def misses(rows: Sequence[Row], target: Target, *, subtitle: str = "") -> None:
    """Shares of the prompt tokens (0 to 1) that were missed, by reason."""
    titles = ("Why prompt tokens were missed", subtitle, "share of prompt tokens (%)")
    _stacked(rows, target, MISS_NAMES, CLASS_COLORS, 100, titles)


def prefetches(rows: Sequence[Row], target: Target, *, subtitle: str = "") -> None:
    """Bytes copied ahead of need, by what became of them."""
    titles = ("What became of prefetches", subtitle, "copied, or meant to be copied, from host to GPU (GB)")
    _stacked(rows, target, _PREFETCH_NAMES, PREFETCH_COLORS, 1e-9, titles)


def _stacked(
    rows: Sequence[Row],
    target: Target,
    names: Mapping[str, str],
    colors: Mapping[str, str],
    scale: float,
    titles: tuple[str, str, str],
) -> None:
    """``titles``: of the figure, below it, and of the axis."""
    title, subtitle, unit = titles
    if not rows:
        raise ConfigError("bars", "none", "at least one policy")
    with new_figure(_height(len(rows)), title, subtitle) as figure:
        axes = figure.subplots()
        left: FloatArray = np.zeros(len(rows))
        for part, label in names.items():
            widths = scale * np.array([row.values.get(part, 0.0) for row in rows])
            axes.barh(range(len(rows)), widths, 0.7, left=left, color=colors[part], label=label)
            left = left + widths
        _write_sums(axes, left)
        axes.set(xlabel=unit, ylim=(len(rows) - 0.45, -0.55), xlim=(0, 1.12 * max(left.max(), 1e-9)))
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside lower left", ncols=len(names), columnspacing=1.4
        )
        save(figure, target)


def _write_sums(axes: Axes, sums: FloatArray) -> None:
    for at, total in enumerate(sums):
        axes.annotate(
            f"{total:.3g}",
            (total, at),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            size=9,
            color=FAINT,
        )


def _height(num_rows: int) -> float:
    return _INCHES_AROUND + _INCHES_PER_ROW * num_rows


def _change(mean: float, half: float) -> str:
    return f"{mean:+.1f} ± {half:.1f} %".replace("-", "−")
