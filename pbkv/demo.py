"""The demo: what LRU with a host tier does to HoVer-like workflows as more of them run at a time."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from pbkv.analysis.figures import hit_ratio_by_concurrency, policy_overview
from pbkv.analysis.labels import shared
from pbkv.analysis.load import load
from pbkv.analysis.points import concurrency_points
from pbkv.analysis.summary import summarise
from pbkv.console import simulate_to
from pbkv.sim.profile import load_profile
from pbkv.sim.settings import Settings
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.reader import Trace
from pbkv.traces.writer import write_trace

NUM_WORKFLOWS = 250
SEED = 1
POOL_BLOCKS = 11_000  # of 16 tokens; about 50 live workflows fill it (docs/workloads.md)
CONCURRENCIES = (24, 36, 48, 60, 72, 84)


def run_demo(folder: Path, *, force: bool) -> None:
    """Generate the trace, simulate it, print the table and draw the figures, all into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    trace = folder / "hover.parquet"
    workflows = generate_workload("hover", NUM_WORKFLOWS, SEED)
    write_trace(trace, workflows, workload_metadata("hover", NUM_WORKFLOWS, SEED), force=force)
    settings = Settings(
        profile=load_profile("2xa6000-qwen3-32b"), gpu_blocks=(POOL_BLOCKS,), concurrencies=CONCURRENCIES
    )
    simulate_to([Trace(trace)], settings, folder / "run", force)
    run = load(folder / "run")
    cells = summarise(run.path)
    subtitle = "HoVer-like workflows · " + shared([cell.setting for cell in cells])
    figure = folder / "hit_ratio_by_concurrency.png"
    hit_ratio_by_concurrency(concurrency_points(cells), figure, subtitle=subtitle)
    policy_overview(run, folder / "overview.png")
    Console().print(f"figures: {folder}/hit_ratio_by_concurrency.png, {folder}/overview.png", highlight=False)
