"""Distributions as lines of quantiles: what share of workflows or calls needed at most so long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pbkv.analysis.ages import SHARES
from pbkv.analysis.intervals import FloatArray
from pbkv.analysis.style import GRID, Target, look_of, new_figure, save
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        HEIGHT_INCHES, title, "to the left is better · marks: median and 95th percentile"
    ) as figure:
        axes = figure.subplots()
        _quantile_lines(axes, found)
        axes.set(xlabel=unit, ylabel=f"share of {of} (%)", ylim=(0, 101))
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
        save(figure, target)


_PANELS = {
    "evicted": "evicted, unused for …",
    "found": "found again, unused for …",
    "missed": "missed, evicted … ago",
}


def age_panels(ages: Mapping[str, Mapping[str, FloatArray]], target: Target, *, subtitle: str = "") -> None:
    """The three ages of `pbkv.analysis.ages` side by side, by policy. ConfigError if there is none."""
    present = [name for name in _PANELS if any(name in measures for measures in ages.values())]
    if not present:
        raise ConfigError("ages", "none", "at least one to draw")
    with new_figure(HEIGHT_INCHES, "Age of cached prefixes", subtitle) as figure:
        panels = figure.subplots(1, len(present), sharex=True, sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, present, strict=True):
            lines = [(policy, found[name]) for policy, found in ages.items() if name in found]
            _draw(axes, [Distribution(policy, policy, values) for policy, values in lines])
            axes.set_title(_PANELS[name])
            axes.set(xlabel="seconds", ylim=(0, 101))
        panels[0].set_ylabel("share (%)")
        every = [values for measures in ages.values() for values in measures.values()]
        _logarithmic(panels[0], every)
        _legend_below(figure, panels, list(ages))
        save(figure, target)


def _legend_below(figure: Figure, panels: Sequence[Axes], policies: Sequence[str]) -> None:
    found: dict[str, Artist] = {}
    for axes in panels:
        found |= {str(line.get_label()): line for line in axes.get_lines()}
    names = [policy for policy in policies if policy in found]
    figure.legend([found[name] for name in names], names, loc="outside lower left", ncols=len(names))


def _quantile_lines(axes: Axes, found: Sequence[Distribution]) -> None:
    """On a logarithmic axis where most values are far apart."""
    _draw(axes, found)
    low = min(float(line.quantiles[5]) for line in found)
    high = max(float(line.quantiles[99]) for line in found)
    if low > 0 and high > _TIGHT * low:
        _logarithmic(axes, [line.quantiles for line in found])
    else:
        axes.set_xlim(left=0)


def _draw(axes: Axes, found: Sequence[Distribution]) -> None:
    marked = [round(100 * share) for share in _MARKED]
    for line in found:
        look = look_of(line.policy)
        axes.plot(
            line.quantiles,
            100 * SHARES,
            color=look.color,
            lw=1.8,
            drawstyle="steps-pre",
            marker=look.marker,
            ms=6,
            markevery=marked,
            label=line.name,
        )
    for share in _MARKED:
        axes.axhline(100 * share, color=GRID, lw=1, zorder=0, label="_share")
    axes.set_yticks([0, 25, 50, 75, 95])
    axes.grid(axis="x")


def _logarithmic(axes: Axes, found: Sequence[FloatArray]) -> None:
    """From what 5 % of the values are below (a hundredth of the largest, if that is 0) to the largest."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    high = max(float(values[-1]) for values in found)
    lows = [float(values[5]) for values in found if values[5] > 0]
    low = max(min(lows, default=high / 100), high / 1e4)
    axes.set_xscale("log")
    if high > 0:
        axes.set_xlim(0.7 * low, 1.2 * high)
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
