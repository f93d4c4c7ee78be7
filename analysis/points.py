"""Hit ratios as points over capacity or concurrency: what the line figures draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pbkv.analysis.intervals import Interval
from pbkv.analysis.labels import distinct
from pbkv.analysis.load import Setting
from pbkv.analysis.summary import CellSummary


class Point(NamedTuple):
    """A hit ratio (0 to 1) of a policy at ``x``: blocks of GPU capacity, or concurrent workflows.

    Points of equal policy and variant make one line; ``variant`` says what else was different.
    """

    policy: str
    x: float
    hit_ratio: Interval
    variant: str = ""


def capacity_points(cells: Sequence[CellSummary]) -> list[Point]:
    """The GPU hit ratios of a run as points over GPU capacity; a variant is a host ratio and a load."""
    settings = [cell.setting for cell in cells]
    by_ratio = len({_host_ratio(s) for s in settings}) <= len({s.host_blocks for s in settings})
    others = distinct(settings, besides=["policy", "gpu", "host"])
    several = len({(_host(setting, by_ratio)) for setting in settings}) > 1
    hosts = [_host(setting, by_ratio) if several else "" for setting in settings]
    variants = [" · ".join(filter(None, pair)) for pair in zip(hosts, others, strict=True)]
    return _points(cells, [setting.gpu_blocks for setting in settings], variants)


def concurrency_points(cells: Sequence[CellSummary]) -> list[Point]:
    """The GPU hit ratios of a run's closed-loop settings as points over concurrency."""
    closed = [cell for cell in cells if cell.setting.concurrency is not None]
    variants = distinct([cell.setting for cell in closed], besides=["policy", "load"])
    return _points(closed, [cell.setting.concurrency or 0 for cell in closed], variants)


def _points(cells: Sequence[CellSummary], xs: Sequence[float], variants: Sequence[str]) -> list[Point]:
    return [
        Point(cell.setting.policy, x, cell.gpu_hit_ratio, variant)
        for cell, x, variant in zip(cells, xs, variants, strict=True)
        if cell.gpu_hit_ratio is not None
    ]


def _host_ratio(setting: Setting) -> float:
    return round(setting.host_blocks / setting.gpu_blocks, 3)


def _host(setting: Setting, by_ratio: bool) -> str:
    if setting.host_blocks == 0:
        return "no host tier"
    size = f"{_host_ratio(setting):g}× GPU" if by_ratio else f"{setting.host_blocks:,}"
    return f"host {size}, {setting.write_mode}"
