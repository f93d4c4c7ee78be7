"""Measures as points over capacity or concurrency: what the line figures draw, and where a line bends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pbkv.analysis.intervals import Interval
from pbkv.analysis.labels import distinct
from pbkv.analysis.load import Setting
from pbkv.analysis.summary import CellSummary

KNEE_SHARE = 0.05


class Point(NamedTuple):
    """A measure of a policy at ``x``: blocks of GPU capacity, or concurrent workflows.

    ``value`` is a hit ratio (0 to 1) unless something else was asked for.

    Points of equal policy and variant make one line; ``variant`` says what else was different.
    """

    policy: str
    x: float
    value: Interval
    variant: str = ""


def capacity_points(cells: Sequence[CellSummary], measure: str = "gpu_hit_ratio") -> list[Point]:
    """A measure of a run as points over GPU capacity; a variant is a host ratio and a load."""
    settings = [cell.setting for cell in cells]
    by_ratio = len({_host_ratio(s) for s in settings}) <= len({s.host_blocks for s in settings})
    others = distinct(settings, besides=["policy", "gpu", "host"])
    several = len({(_host(setting, by_ratio)) for setting in settings}) > 1
    hosts = [_host(setting, by_ratio) if several else "" for setting in settings]
    variants = [" · ".join(filter(None, pair)) for pair in zip(hosts, others, strict=True)]
    return _points(cells, [setting.gpu_blocks for setting in settings], variants, measure)


def concurrency_points(cells: Sequence[CellSummary], measure: str = "gpu_hit_ratio") -> list[Point]:
    """A measure of a run's closed-loop settings as points over concurrency."""
    closed = [cell for cell in cells if cell.setting.concurrency is not None]
    variants = distinct([cell.setting for cell in closed], besides=["policy", "load"])
    return _points(closed, [cell.setting.concurrency or 0 for cell in closed], variants, measure)


def knee(points: Sequence[Point], top: float | None = None) -> Point | None:
    """Of one line's points, that from which on more memory buys at most KNEE_SHARE of the hits.

    The hits are those at ``top``: an infinite cache's ratio, or without one the line's last and so only
    what the largest capacity tried has. None where even that capacity is further from ``top``, or for
    fewer than three points.
    """
    line = sorted(points, key=lambda point: point.x)
    if len(line) < 3:
        return None
    enough = (1 - KNEE_SHARE) * (line[-1].value.mean if top is None else top)
    found = None
    for point in reversed(line):
        if point.value.mean < enough:
            break
        found = point
    return found


def _points(
    cells: Sequence[CellSummary], xs: Sequence[float], variants: Sequence[str], measure: str
) -> list[Point]:
    found = zip(cells, xs, variants, strict=True)
    return [
        Point(cell.setting.policy, x, value, variant)
        for cell, x, variant in found
        if (value := getattr(cell, measure)) is not None
    ]


def _host_ratio(setting: Setting) -> float:
    return round(setting.host_blocks / setting.gpu_blocks, 3)


def _host(setting: Setting, by_ratio: bool) -> str:
    if setting.host_blocks == 0:
        return "no host tier"
    size = f"{_host_ratio(setting):g}× GPU" if by_ratio else f"{setting.host_blocks:,}"
    return f"host {size}, {setting.write_mode}"
