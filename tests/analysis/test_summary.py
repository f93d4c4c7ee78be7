"""Every measure of a cell, recomputed from the same records with a few lines of pandas."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pbkv.analysis.intervals import Interval
from pbkv.analysis.load import load
from pbkv.analysis.summary import MEASURES, CellSummary, summarise, summarise_cells
from pbkv.traces.errors import TraceError

WriteRun = Callable[..., Path]
Tables = dict[str, list[dict[str, Any]]]
CELLS = [{"policy": "lru"}, {"policy": "pbkv"}, {"policy": "lru", "gpu_blocks": 2048}]
T_11 = 2.2009852  # 97.5 % quantile of Student's t with 11 degrees of freedom: 12 workflows


def _measure(cell: CellSummary, name: str) -> Interval:
    interval = getattr(cell, name)
    assert isinstance(interval, Interval)
    return interval


@pytest.fixture
def summaries(write_run: WriteRun) -> tuple[Path, list[CellSummary]]:
    folder = write_run(CELLS)
    return folder, summarise(folder)


def test_one_summary_a_setting_in_the_order_of_the_run(summaries: tuple[Path, list[CellSummary]]) -> None:
    found = [(cell.setting.policy, cell.setting.gpu_blocks, cell.seeds) for cell in summaries[1]]
    assert found == [("lru", 512, (0,)), ("pbkv", 512, (0,)), ("lru", 2048, (0,))]


def test_times_by_pandas(summaries: tuple[Path, list[CellSummary]]) -> None:
    folder, cells = summaries
    calls, workflows = (pd.read_parquet(folder / f"{name}.parquet") for name in ("calls", "workflows"))
    calls["ttft_s"] = calls.first_token_at_s - calls.submitted_at_s
    gaps = (calls.num_output_tokens - 1).where(calls.num_output_tokens > 1)
    calls["tpot_s"] = (calls.ended_at_s - calls.first_token_at_s) / gaps
    workflows["jct_s"] = workflows.ended_at_s - workflows.released_at_s
    assert calls.tpot_s.isna().any()  # some call of one token is there to be left out
    for number, cell in enumerate(cells):
        by_workflow = calls[calls.cell == number].groupby("workflow_id")[["ttft_s", "tpot_s"]].mean()
        by_workflow = by_workflow.assign(
            jct_s=workflows[workflows.cell == number].set_index("workflow_id").jct_s
        )
        for name in ("jct_s", "ttft_s", "tpot_s"):
            values = by_workflow[name].dropna()
            assert len(values) == 12
            assert _measure(cell, name).mean == pytest.approx(values.mean())
            assert _measure(cell, name).half == pytest.approx(T_11 * float(values.std()) / 12**0.5)
        assert _measure(cell, "jct_p95_s").mean == pytest.approx(by_workflow.jct_s.quantile(0.95))


def test_ratios_by_pandas(summaries: tuple[Path, list[CellSummary]]) -> None:
    folder, cells = summaries
    calls = pd.read_parquet(folder / "calls.parquet")
    calls["num_hit_all_tokens"] = calls[
        ["num_gpu_hit_tokens", "num_host_hit_tokens", "num_loading_tokens"]
    ].sum(axis=1)
    columns = {"hit_ratio": "num_hit_all_tokens"} | {
        f"{name}_ratio": f"num_{name}_tokens"
        for name in ("gpu_hit", "host_hit", "loading", "evicted", "partial", "cold")
    }
    for number, cell in enumerate(cells):
        tokens = calls[calls.cell == number].groupby("workflow_id").sum(numeric_only=True)
        prompt = tokens.num_prompt_tokens
        for name, column in columns.items():
            ratio = tokens[column].sum() / prompt.sum()
            residuals = (tokens[column] - ratio * prompt) / prompt.mean()
            assert _measure(cell, name).mean == pytest.approx(ratio)
            assert _measure(cell, name).half == pytest.approx(
                T_11 * (residuals**2).sum() ** 0.5 / (11 * 12) ** 0.5
            )


def test_rates_by_pandas(summaries: tuple[Path, list[CellSummary]]) -> None:
    folder, cells = summaries
    calls, workflows = (pd.read_parquet(folder / f"{name}.parquet") for name in ("calls", "workflows"))
    for number, cell in enumerate(cells):
        mine, spans = calls[calls.cell == number], workflows[workflows.cell == number]
        makespan_s = spans.ended_at_s.max() - spans.released_at_s.min()
        assert (cell.num_workflows, cell.num_calls) == (12, len(mine))
        assert _measure(cell, "workflows_per_s").mean == pytest.approx(12 / makespan_s)
        assert _measure(cell, "workflows_per_s").half is None
        assert _measure(cell, "calls_per_s").mean == pytest.approx(len(mine) / makespan_s)
        assert _measure(cell, "output_tokens_per_s").mean == pytest.approx(
            mine.num_output_tokens.sum() / makespan_s
        )


def test_the_six_classes_sum_to_one(summaries: tuple[Path, list[CellSummary]]) -> None:
    names = ("gpu_hit", "host_hit", "loading", "evicted", "partial", "cold")
    for cell in summaries[1]:
        assert sum(_measure(cell, f"{name}_ratio").mean for name in names) == pytest.approx(1)


def test_row_groups_and_the_order_of_cells_do_not_matter(write_run: WriteRun) -> None:
    def interleave(tables: Tables) -> None:
        for rows in tables.values():
            rows.sort(key=lambda row: (row.get("workflow_id", ""), row["cell"]))

    whole = summarise(write_run(CELLS, "whole", rows_per_group=10_000))
    mixed = summarise(write_run(CELLS, "mixed", rows_per_group=3, edit=interleave))
    for name in MEASURES:
        for left, right in zip(whole, mixed, strict=True):
            assert _measure(left, name).mean == pytest.approx(_measure(right, name).mean)
            assert _measure(left, name).half == pytest.approx(_measure(right, name).half)


def test_several_seeds_give_intervals_over_seeds(write_run: WriteRun) -> None:
    cells = [{"policy": policy, "seed": seed} for seed in (3, 1, 4) for policy in ("lru", "pbkv")]
    folder = write_run(cells)
    single, joined = summarise_cells(load(folder)), summarise(folder)
    assert [(cell.setting.policy, cell.seeds) for cell in joined] == [("lru", (3, 1, 4)), ("pbkv", (3, 1, 4))]
    for offset, cell in enumerate(joined):
        runs = single[offset::2]
        assert cell.num_calls == sum(run.num_calls for run in runs)
        for name in MEASURES:  # rates and the 95th percentile, too, have an interval now
            means = np.array([_measure(run, name).mean for run in runs])
            expected = 4.3026527 * means.std(ddof=1) / 3**0.5
            assert _measure(cell, name).mean == pytest.approx(means.mean())
            assert _measure(cell, name).half == pytest.approx(expected)
            assert _measure(cell, name).num_values == 3


def test_the_write_mode_keeps_cells_apart(write_run: WriteRun) -> None:
    found = summarise(write_run([{"write_mode": "write-through"}, {"write_mode": "write-back"}]))
    assert [(cell.setting.write_mode, len(cell.seeds)) for cell in found] == [
        ("write-through", 1),
        ("write-back", 1),
    ]


def test_one_workflow_has_means_without_intervals(write_run: WriteRun) -> None:
    (cell,) = summarise(write_run([{}], num_workflows=1))
    assert all(_measure(cell, name).half is None for name in MEASURES)


def test_calls_without_output_have_no_times(write_run: WriteRun) -> None:
    def silence(tables: Tables) -> None:
        for row in tables["calls"]:
            row.update(num_output_tokens=0, first_token_at_s=None)

    (cell,) = summarise(write_run([{}], edit=silence))
    assert cell.ttft_s is None
    assert cell.tpot_s is None
    assert _measure(cell, "output_tokens_per_s").mean == 0
    assert _measure(cell, "jct_s").mean > 0


def test_some_calls_without_a_first_token_are_left_out(write_run: WriteRun) -> None:
    def silence_the_first(tables: Tables) -> None:
        tables["calls"][0]["first_token_at_s"] = None

    folder = write_run([{}], edit=silence_the_first)
    calls = pd.read_parquet(folder / "calls.parquet").iloc[1:]
    waits = (calls.first_token_at_s - calls.submitted_at_s).groupby(calls.workflow_id).mean()
    assert _measure(summarise(folder)[0], "ttft_s").mean == pytest.approx(waits.mean())


@pytest.mark.parametrize("table", ["calls", "workflows"])
def test_a_cell_without_rows_is_named(write_run: WriteRun, table: str) -> None:
    def drop(tables: Tables) -> None:
        tables[table] = [row for row in tables[table] if row["cell"] != 1]

    folder = write_run(CELLS, edit=drop)
    with pytest.raises(TraceError, match=rf"{table}\.parquet: rows of cell 1: got 0, expected at least one"):
        summarise(folder)


def test_the_console_table_needs_neither_pandas_nor_matplotlib(write_run: WriteRun) -> None:
    folder = write_run(CELLS)
    program = """
import sys
from rich.console import Console
from pbkv.analysis.summary import summarise
from pbkv.analysis.table import ConsoleTable, markdown_table
Console(width=100).print(ConsoleTable(summarise(sys.argv[1])))
heavy = {"pandas", "matplotlib", "scipy"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pbkv" in done.stdout
