"""LRU on the generated HoVer-like workload: a plateau, then a collapse (docs/workloads.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pbkv.analysis.summary import summarise
from pbkv.paper.experiments import arm_of
from pbkv.sim import simulate
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.reader import Trace
from pbkv.traces.writer import write_trace

SEED = 2026  # none of those that the workload was fitted with


def test_lru_holds_to_about_fifty_workflows_and_collapses_beyond(tmp_path: Path) -> None:
    trace = tmp_path / "hover.parquet"
    write_trace(trace, generate_workload("hover", 250, SEED), workload_metadata("hover", 250, SEED))
    settings = replace(arm_of(policy="lru").settings(0, ""), concurrencies=(36, 48, 60, 72))
    results = simulate([Trace(trace)], settings, tmp_path / "run")
    assert all(
        result.num_pure_decodes > 0.9 * result.num_iterations for result in results
    )  # the paper: > 90 %
    ratios = [cell.gpu_hit_ratio for cell in summarise(tmp_path / "run")]
    plateau, edge, falling, collapsed = (100 * ratio.mean for ratio in ratios if ratio is not None)
    assert 73 <= plateau <= 80  # the paper: 77
    assert plateau - 4 <= edge  # 76.5
    assert 40 <= falling <= 60  # 52.5
    assert 22 <= collapsed <= 32  # 27.1
