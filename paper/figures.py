"""The paper's plots: ours as lines with intervals, the paper's as hollow marks of the same colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pbkv.analysis.figures import course_of_run
from pbkv.analysis.intervals import mean_interval
from pbkv.analysis.load import load
from pbkv.analysis.style import look_of, new_figure, save
from pbkv.paper import published
from pbkv.paper.experiments import CONCURRENCIES, Arm, arm_of
from pbkv.paper.run import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = ("concurrency.png", "steps_gamma.png", "noise_rho.png", "course.png")
_HEIGHT = 5.0
_SUBTITLE = "GPU hit ratio, % of prompt tokens · lines: ours ± 95 % over seeds · hollow marks: the paper"


def draw(results: Results, folder: Path) -> list[str]:
    """Draw what ``results`` hold into ``folder``; the names of the files."""
    drawn = []
    if results.of(arm_of(policy="lru", concurrency=CONCURRENCIES[0])):
        _draw_concurrency(results, folder / "concurrency.png")
        drawn.append("concurrency.png")
    if results.of(arm_of(num_steps=5)) and results.of(arm_of(gamma=0.9)):
        _draw_steps_and_gamma(results, folder / "steps_gamma.png")
        drawn.append("steps_gamma.png")
    if results.of(arm_of(noise=0.4)) and results.of(arm_of(policy="pbkv-aggressive", rho=0.4)):
        _draw_noise_and_rho(results, folder / "noise_rho.png")
        drawn.append("noise_rho.png")
    course_of_run(load(results.course), folder / "course.png")
    return [*drawn, "course.png"]


def _draw_concurrency(results: Results, target: Path) -> None:
    with new_figure(_HEIGHT, "HoVer-like: hits by concurrency", _SUBTITLE) as figure:
        axes = figure.subplots()
        for policy, paper in published.BY_CONCURRENCY.items():
            arms = {float(at): arm_of(concurrency=at, policy=policy) for at in CONCURRENCIES}
            _line(axes, results, arms, paper, policy)
        axes.set(xlabel="concurrent workflows", ylabel="GPU hit %", ylim=(0, 85), xticks=CONCURRENCIES)
        _finish(axes)
        save(figure, target)


def _draw_steps_and_gamma(results: Results, target: Path) -> None:
    with new_figure(_HEIGHT, "HoVer-like at 72: how far and how much to look ahead", _SUBTITLE) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        steps = {k: arm_of(num_steps=int(k)) for k in published.BY_STEPS}
        _line(left, results, steps, published.BY_STEPS, "pbkv")
        gammas = {gamma: arm_of(gamma=gamma) for gamma in published.BY_GAMMA}
        _line(right, results, gammas, published.BY_GAMMA, "pbkv")
        left.set(xlabel="steps K", ylabel="GPU hit %", xticks=list(published.BY_STEPS))
        right.set(xlabel="discount γ")
        for axes in (left, right):
            axes.grid(axis="y")
        save(figure, target)


def _draw_noise_and_rho(results: Results, target: Path) -> None:
    with new_figure(
        _HEIGHT, "HoVer-like at 72: noise in forecasts, aggressive prefetch", _SUBTITLE
    ) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for policy, paper in published.BY_NOISE.items():
            arms = {100 * noise: arm_of(policy=policy, noise=noise) for noise in paper}
            _line(left, results, arms, {100 * at: hit for at, hit in paper.items()}, policy)
        arms = {100 * rho: arm_of(policy="pbkv-aggressive", rho=rho) for rho in published.BY_RHO}
        paper = {100 * rho: hit for rho, (hit, _) in published.BY_RHO.items()}
        _line(right, results, arms, paper, "pbkv-aggressive")
        left.set(xlabel="noise λ (%)", ylabel="GPU hit %")
        right.set(xlabel="share of active cache that may go, ρ (%)")
        left.legend(loc="lower left")
        for axes in (left, right):
            axes.grid(axis="y")
        save(figure, target)


def _line(
    axes: Axes, results: Results, arms: Mapping[float, Arm], paper: Mapping[float, float], policy: str
) -> None:
    look = look_of(policy)
    xs, means, halves = list[float](), list[float](), list[float]()
    for x, arm in arms.items():
        interval = mean_interval(np.array([100 * row["gpu_hit_ratio"] for row in results.of(arm)]))
        if interval is not None:
            xs.append(x)
            means.append(interval.mean)
            halves.append(interval.half or 0.0)
    axes.errorbar(xs, means, yerr=halves, color=look.color, marker=look.marker, capsize=2.5, label=policy)
    axes.plot(list(paper), list(paper.values()), ls="", marker=look.marker, mfc="none", mec=look.color, ms=9)


def _finish(axes: Axes) -> None:
    axes.grid(axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
