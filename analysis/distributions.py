"""Distributions as lines of quantiles: what share of workflows or calls needed at most so long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pbkv.analysis.ages import SHARES
from pbkv.analysis.intervals import FloatArray
from pbkv.analysis.style import GRID, Target, look_of, new_figure, save
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT_INCHES = 4.6
_MARKED = (0.5, 0.95)
_TIGHT = 20  # p99 / p5 from which a logarithmic axis shows more


class Distribution(NamedTuple):
    """A policy's quantiles at `SHARES`, shape (101,), in seconds; ``name`` stands in the legend."""

    name: str
    policy: str
    quantiles: FloatArray


def distribution(found: Sequence[Distribution], target: Target, *, title: str, unit: str, of: str) -> None:
    """One line a policy; ``unit`` names the axis, ``of`` what is counted. ConfigError without any."""
    if not found:
        raise ConfigError("distributions", "none", "at least one to draw")
    with new_figure(
        HEIGHT_INCHES, title, "to the left is better · dots: median and 95th percentile"
    ) as figure:
        axes = figure.subplots()
        _quantile_lines(axes, found)
        axes.set(xlabel=unit, ylabel=f"share of {of} (%)", ylim=(0, 101))
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
        save(figure, target)


_PANELS = {
    "evicted": "evicted, idle for …",
    "found": "found again, idle for …",
    "missed": "missed, evicted … before",
}


def age_panels(ages: Mapping[str, Mapping[str, FloatArray]], target: Target) -> None:
    """The three ages of `pbkv.analysis.ages` side by side, by policy. ConfigError if there is none."""
    present = [name for name in _PANELS if any(name in measures for measures in ages.values())]
    if not present:
        raise ConfigError("ages", "none", "at least one to draw")
    title, subtitle = (
        "Age of cached prefixes",
        "time since the last use; evicted early and missed soon after is thrash",
    )
    with new_figure(HEIGHT_INCHES, title, subtitle) as figure:
        panels = figure.subplots(1, len(present), sharex=True, sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, present, strict=True):
            lines = [
                Distribution(policy, policy, measures[name])
                for policy, measures in ages.items()
                if name in measures
            ]
            _quantile_lines(axes, lines, logarithmic=True)
            axes.set_title(_PANELS[name])
            axes.set(xlabel="seconds", ylim=(0, 101))
        panels[0].set_ylabel("share of what was evicted,\nfound or missed (%)")
        handles = {
            line.get_label(): line
            for axes in panels
            for line in axes.get_lines()
            if str(line.get_label())[0] != "_"
        }
        figure.legend(handles.values(), [str(name) for name in handles], loc="outside lower left", ncols=8)
        save(figure, target)


def _quantile_lines(axes: Axes, found: Sequence[Distribution], logarithmic: bool | None = None) -> None:
    low = min(float(line.quantiles[5]) for line in found)
    high = max(float(line.quantiles[99]) for line in found)
    is_wide = low > 0 and high > _TIGHT * low
    for line in found:
        color = look_of(line.policy).color
        axes.plot(line.quantiles, 100 * SHARES, color=color, lw=1.8, label=line.name, drawstyle="steps-pre")
        marked = [round(100 * share) for share in _MARKED]
        axes.plot(
            line.quantiles[marked], 100 * SHARES[marked], look_of(line.policy).marker, color=color, ms=6
        )
    if logarithmic or is_wide:
        _logarithmic(axes, low, high)
    else:
        axes.set_xlim(left=0)
    for share in _MARKED:
        axes.axhline(100 * share, color=GRID, lw=1, zorder=0)
    axes.set_yticks([0, 25, 50, 75, 95])
    axes.grid(axis="x")


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    left, right = axes.get_xlim()
    axes.set_xlim(max(left, low / 10, 1e-4) if low > 0 else 1e-2, min(right, 3 * high) if high > 0 else right)
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
