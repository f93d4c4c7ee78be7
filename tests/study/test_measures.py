"""The measures of a cell, against the same by pandas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pbkv.analysis.load import load
from pbkv.analysis.metrics import by_cell
from pbkv.sim.profile import load_profile
from pbkv.sim.run import simulate
from pbkv.sim.settings import Settings
from pbkv.study.measures import MEANS, measured, quantile_interval
from pbkv.traces.reader import Trace

TRACE = Path(__file__).parents[1] / "data" / "hover-30.parquet"


def test_measures_are_those_of_the_records(tmp_path: Path) -> None:
    settings = Settings(load_profile("2xa6000-qwen3-32b"), gpu_blocks=(1000,), concurrencies=(8,))
    result = simulate([Trace(TRACE)], settings, tmp_path / "run")[0]
    found, run = measured(result, tmp_path / "run"), load(tmp_path / "run")
    table = by_cell(run).iloc[0]
    for name in MEANS:
        assert found[name] == pytest.approx(table[name])
    calls, workflows = run.calls, run.workflows
    ttft_s = calls["first_token_at_s"] - calls["submitted_at_s"]
    jct_s = workflows["ended_at_s"] - workflows["released_at_s"]
    several = calls[calls["num_output_tokens"] > 1]
    tpot_s = (several["ended_at_s"] - several["first_token_at_s"]) / (several["num_output_tokens"] - 1)
    for name, values in (("ttft", ttft_s), ("jct", jct_s), ("tpot", tpot_s)):
        for percentile in (50, 90, 95, 99):
            column = f"{name}_p{percentile}_s"
            assert found[column] == pytest.approx(values.quantile(percentile / 100))
            assert found[f"{column}_low"] <= found[column] <= found[f"{column}_high"]


def test_the_interval_of_a_percentile_covers_it_about_as_often_as_it_says() -> None:
    """Clusters of three values that have most in common: as if a third were independent."""
    random, num_covered = np.random.default_rng(0), 0
    clusters = np.repeat(np.arange(200), 3)
    for _ in range(300):
        values = np.repeat(random.normal(size=200), 3) + 0.1 * random.normal(size=600)
        _, low, high = quantile_interval(values, clusters, 0.9)
        num_covered += low <= 1.2815515655 * np.sqrt(1.01) <= high
    assert 0.91 <= num_covered / 300 <= 0.985  # 0.95 ± about three standard errors


def test_one_workflow_says_nothing_of_the_spread() -> None:
    assert quantile_interval(np.array([1.0, 2.0, 3.0]), np.zeros(3, dtype=np.int64), 0.5) == (2.0, 2.0, 2.0)
