"""The frames agree with the records, and pairs are pairs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pbkv.analysis.load import load
from pbkv.analysis.metrics import by_cell, by_workflow, miss_reasons, paired
from pbkv.analysis.summary import MEASURES, summarise
from pbkv.traces.errors import ConfigError

WriteRun = Callable[..., Path]
Tables = dict[str, list[dict[str, Any]]]
T_11, T_2 = 2.2009852, 4.3026527  # 97.5 % quantiles of Student's t with 11 and 2 degrees of freedom


def _half(values: pd.Series, t: float) -> float:
    return t * float(values.std()) / math.sqrt(len(values))


def test_by_workflow_has_a_row_a_cell_and_workflow(write_run: WriteRun) -> None:
    run = load(write_run([{"policy": "lru"}, {"policy": "lae", "concurrency": None, "open_loop": True}]))
    frame = by_workflow(run).set_index(["cell", "workflow_id"])
    calls = run.calls.assign(ttft_s=run.calls.first_token_at_s - run.calls.submitted_at_s)
    expected = calls.groupby(["cell", "workflow_id"])
    assert len(frame) == 24
    assert frame.num_calls.equals(expected.size().reindex(frame.index))
    np.testing.assert_allclose(frame.ttft_s, expected.ttft_s.mean().reindex(frame.index))
    for name in ("num_prompt_tokens", "num_evicted_tokens", "num_output_tokens"):
        assert (frame[name] == expected[name].sum().reindex(frame.index)).all()
    np.testing.assert_allclose(frame.jct_s, run.workflows.ended_at_s - run.workflows.released_at_s)
    assert frame.loc[0].concurrency.eq(8).all()
    assert frame.loc[1].concurrency.isna().all()


def test_by_cell_holds_the_summaries(write_run: WriteRun) -> None:
    folder = write_run(
        [{"policy": p, "seed": s} for p in ("lru", "lae") for s in (0, 1)] + [{"policy": "pbkv"}]
    )
    frame, summaries = by_cell(load(folder)), summarise(folder)
    assert frame.num_seeds.tolist() == [2, 2, 1]
    assert frame.write_mode.tolist() == ["write-through"] * 3
    for row, cell in zip(frame.to_dict("records"), summaries, strict=True):
        for name in MEASURES:
            interval = getattr(cell, name)
            assert row[name] == interval.mean
            half = np.nan if interval.half is None else interval.half
            assert row[f"{name}_half"] == pytest.approx(half, nan_ok=True)


def test_miss_reasons_are_shares_of_what_was_missed(write_run: WriteRun) -> None:
    run = load(write_run([{"policy": "lru", "seed": 0}, {"policy": "lru", "seed": 1}, {"policy": "lae"}]))
    frame = miss_reasons(run).set_index("policy")
    for policy in ("lru", "lae"):
        names = ["evicted", "partial", "cold"]
        tokens = run.calls[run.calls.policy == policy][[f"num_{name}_tokens" for name in names]].sum()
        np.testing.assert_allclose(
            frame.loc[policy, [f"{name}_share" for name in names]].astype(float), tokens / tokens.sum()
        )


def test_without_misses_there_are_no_reasons(write_run: WriteRun) -> None:
    def hit_all(tables: Tables) -> None:
        for row in tables["calls"]:
            row.update(num_evicted_tokens=0, num_partial_tokens=0, num_cold_tokens=0)

    frame = miss_reasons(load(write_run([{}], edit=hit_all)))
    assert frame[["evicted_share", "partial_share", "cold_share"]].isna().all(axis=None)


def test_paired_times_by_pandas(write_run: WriteRun) -> None:
    run = load(write_run([{"policy": "lru"}, {"policy": "pbkv"}, {"policy": "lae"}]))
    spans = run.workflows.assign(jct_s=run.workflows.ended_at_s - run.workflows.released_at_s)
    wide = spans.pivot(index="workflow_id", columns="policy", values="jct_s")
    frame = paired(run, "lru").set_index("policy")
    assert frame.index.tolist() == ["pbkv", "lae"]
    for policy in ("pbkv", "lae"):
        difference = wide[policy] - wide["lru"]
        ratio = wide[policy].mean() / wide["lru"].mean()
        residuals = (wide[policy] - ratio * wide["lru"]) / wide["lru"].mean()
        row = frame.loc[policy]
        assert (row.num_workflows, row.num_seeds, row.measure, row.baseline) == (12, 1, "jct_s", "lru")
        assert row.difference == pytest.approx(difference.mean())
        assert row.difference_half == pytest.approx(_half(difference, T_11))
        assert row.ratio == pytest.approx(ratio)
        assert row.ratio_half == pytest.approx(T_11 * (residuals**2).sum() ** 0.5 / (11 * 12) ** 0.5)


def test_pairing_removes_what_the_workflows_have_in_common(write_run: WriteRun) -> None:
    def a_tenth_slower(tables: Tables) -> None:
        spans = [row for row in tables["workflows"] if row["cell"] == 0]
        slower = [{**row, "cell": 1, "policy": "fifo"} for row in spans]
        for row in slower:
            row["ended_at_s"] += 0.1 * (row["ended_at_s"] - row["released_at_s"])
        tables["workflows"] = spans + slower[::-1]  # in another order

    run = load(write_run([{"policy": "lru"}, {"policy": "fifo"}], edit=a_tenth_slower))
    (row,) = paired(run, "lru").to_dict("records")
    assert row["ratio"] == pytest.approx(1.1)
    assert row["ratio_half"] == pytest.approx(0, abs=1e-9)
    assert row["difference_half"] == pytest.approx(0.1 * by_cell(run).jct_s_half[0])


def test_paired_hit_ratios_are_weighted_by_prompt_tokens(write_run: WriteRun) -> None:
    def same_prompts(tables: Tables) -> None:
        calls = [row for row in tables["calls"] if row["cell"] == 0]
        better = [{**row, "cell": 1, "policy": "lae"} for row in calls]
        for row in better:
            moved = row["num_evicted_tokens"] // 2
            row["num_evicted_tokens"] -= moved
            row["num_gpu_hit_tokens"] += moved
        tables["calls"] = calls + better

    run = load(write_run([{"policy": "lru"}, {"policy": "lae"}], edit=same_prompts))
    calls = run.calls.groupby("policy")[["num_prompt_tokens", "num_gpu_hit_tokens"]].sum()
    ratio = calls.num_gpu_hit_tokens / calls.num_prompt_tokens
    (row,) = paired(run, "lru", "gpu_hit_ratio").to_dict("records")
    assert row["difference"] == pytest.approx(ratio["lae"] - ratio["lru"])
    assert row["ratio"] == pytest.approx(ratio["lae"] / ratio["lru"])
    unpaired = by_cell(run).gpu_hit_ratio_half.max()
    assert 0 < row["difference_half"] < unpaired


def test_pairs_over_seeds(write_run: WriteRun) -> None:
    run = load(write_run([{"policy": p, "seed": s} for s in (0, 1, 2) for p in ("lru", "lae")]))
    spans = run.workflows.assign(jct_s=run.workflows.ended_at_s - run.workflows.released_at_s)
    means = spans.groupby(["seed", "policy"]).jct_s.mean().unstack()
    (row,) = paired(run, "lru").to_dict("records")
    assert (row["num_seeds"], row["num_workflows"]) == (3, 36)
    assert row["difference"] == pytest.approx((means.lae - means.lru).mean())
    assert row["difference_half"] == pytest.approx(_half(means.lae - means.lru, T_2))
    assert row["ratio"] == pytest.approx((means.lae / means.lru).mean())


def test_only_workflows_of_both_are_paired(write_run: WriteRun) -> None:
    def drop_one(tables: Tables) -> None:
        for name in ("calls", "workflows"):
            tables[name] = [row for row in tables[name] if (row["cell"], row["workflow_id"]) != (1, "w3")]

    run = load(write_run([{"policy": "lru"}, {"policy": "lae"}], edit=drop_one))
    (row,) = paired(run, "lru").to_dict("records")
    assert row["num_workflows"] == 11


def test_a_pair_needs_the_same_setting(write_run: WriteRun) -> None:
    run = load(
        write_run(
            [
                {"policy": "lru", "write_mode": "write-back"},
                {"policy": "lru", "gpu_blocks": 99},
                {"policy": "lae", "gpu_blocks": 99},
                {"policy": "lae", "concurrency": 4},
            ]
        )
    )
    frame = paired(run, "lru")
    assert frame[["policy", "gpu_blocks", "concurrency"]].to_numpy().tolist() == [["lae", 99, 8]]


def test_what_cannot_be_paired_is_named(write_run: WriteRun) -> None:
    run = load(write_run([{"policy": "lru"}, {"policy": "lae", "gpu_blocks": 99}]))
    with pytest.raises(ConfigError, match=r"baseline: got fifo, expected a policy of the run: lru, lae"):
        paired(run, "fifo")
    with pytest.raises(ConfigError, match=r"measure: got speed, expected one of jct_s, ttft_s"):
        paired(run, "lru", "speed")
    with pytest.raises(ConfigError, match=r"baseline: got lru, expected another policy at the same setting"):
        paired(run, "lru")
