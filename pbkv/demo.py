"""The demo: HoVer-like workflows under LRU and under PBKV, as more and more of them run at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from pbkv.analysis.figures import hit_ratio_by_concurrency, policy_overview
from pbkv.analysis.labels import shared
from pbkv.analysis.load import load
from pbkv.analysis.points import concurrency_points
from pbkv.analysis.summary import summarise
from pbkv.console import simulate_to
from pbkv.paper.experiments import NUM_WORKFLOWS, arm_of
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.reader import Trace
from pbkv.traces.writer import write_trace

SEED = 1
POLICIES = ("lru", "lae", "pbkv")
CONCURRENCIES = (36, 48, 60, 72, 84)


def run_demo(folder: Path, *, force: bool) -> None:
    """Generate the trace, simulate it, print the table and draw the figures, all into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    trace = folder / "hover.parquet"
    workflows = generate_workload("hover", NUM_WORKFLOWS, SEED)
    write_trace(trace, workflows, workload_metadata("hover", NUM_WORKFLOWS, SEED), force=force)
    settings = replace(
        arm_of(predictor="markov:3").settings(0, ""),
        policies=POLICIES,
        concurrencies=CONCURRENCIES,
        cache_events=True,
    )
    simulate_to([Trace(trace)], settings, folder / "run", force)
    run = load(folder / "run")
    cells = summarise(run.path)
    subtitle = "HoVer-like workflows · " + shared([cell.setting for cell in cells])
    figure = folder / "hit_ratio_by_concurrency.png"
    hit_ratio_by_concurrency(concurrency_points(cells), figure, subtitle=subtitle)
    policy_overview(run, folder / "overview.png")
    Console().print(f"figures: {folder}/hit_ratio_by_concurrency.png, {folder}/overview.png", highlight=False)
