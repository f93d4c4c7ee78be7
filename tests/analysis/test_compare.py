"""`compare`: which cells are a pair, the ratio by pandas, intervals that cover, and the words for worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pbkv.analysis.compare import Comparison, _bootstrap, compare, open_side
from pbkv.analysis.load import load
from pbkv.analysis.metrics import by_workflow, pairings
from pbkv.analysis.sides import notes
from pbkv.traces.errors import ConfigError, TraceError

WriteRun = Callable[..., Path]
Tables = dict[str, list[dict[str, Any]]]


def _slower(factor: float, noise: float = 0.0) -> Callable[[Tables], None]:
    """Workflows last 10 to 30 s, times ``factor`` and, each by itself, up to ``noise`` more or less."""

    def edit(tables: Tables) -> None:
        rng = np.random.default_rng(5)
        for index, row in enumerate(tables["workflows"]):
            last_s = 10 + 20 * (index % 12) / 12
            row["ended_at_s"] = row["released_at_s"] + factor * last_s * (1 + rng.uniform(-noise, noise))

    return edit


def test_ratios_by_pandas(write_run: WriteRun) -> None:
    a, b = (
        load(write_run([{"policy": policy, "seed": s} for s in (0, 1)], policy)) for policy in ("lru", "lae")
    )
    jct, hits = compare(a, b, ["jct_s", "hit_ratio"])
    means, ratios = [], []
    for run in (a, b):
        spans = run.workflows.ended_at_s - run.workflows.released_at_s
        means.append(spans.mean())
        tokens = run.calls[["num_gpu_hit_tokens", "num_host_hit_tokens", "num_loading_tokens"]].sum().sum()
        ratios.append(tokens / run.calls.num_prompt_tokens.sum())
    assert (jct.mean_a, jct.mean_b) == pytest.approx(tuple(means))
    assert jct.ratio == pytest.approx(means[1] / means[0])
    assert (hits.mean_a, hits.mean_b) == pytest.approx(tuple(ratios))
    assert (jct.num_seeds, jct.num_workflows) == (2, 24)


@pytest.mark.parametrize("policy", ["ttl:2", "mine.py:Mine", "mine.py:Mine+arrival"])
def test_a_policy_may_have_a_colon_in_its_name(policy: str, write_run: WriteRun) -> None:
    folder = write_run([{"policy": "lru"}, {"policy": policy}])
    assert {cell.setting.policy for cell in open_side(f"{folder}:{policy}").cells} == {policy}


def test_the_interval_is_near_the_t_interval_of_the_ratio(write_run: WriteRun) -> None:
    folder = write_run([{"policy": "lru"}, {"policy": "lae"}], num_workflows=200)
    (found,) = compare(open_side(f"{folder}:lru"), open_side(f"{folder}:lae"), ["jct_s"])
    run = load(folder)
    (pairing,) = pairings(by_workflow(run), run.cells, "lru", "jct_s")
    assert pairing.ratio is not None
    assert found.ratio == pytest.approx(pairing.ratio.mean)
    assert found.low == pytest.approx(pairing.ratio.low, abs=0.03)
    assert found.high == pytest.approx(pairing.ratio.high, abs=0.03)


def test_equal_runs_are_equal_and_equal_seeds_draw_equally(write_run: WriteRun) -> None:
    run = load(write_run([{}]))
    (same,) = compare(run, run, ["ttft_s"])
    assert (same.low, same.ratio, same.high) == (1, 1, 1)
    other = load(write_run([{}], "other", edit=_slower(1.5, 0.3)))
    assert compare(run, other, ["jct_s"], seed=3) == compare(run, other, ["jct_s"], seed=3)
    assert compare(run, other, ["jct_s"], seed=3) != compare(run, other, ["jct_s"], seed=4)


def test_worse_is_said_by_the_whole_interval_only(write_run: WriteRun) -> None:
    a = load(write_run([{}], "a", edit=_slower(1)))
    b = load(write_run([{}], "b", edit=_slower(1.05, 0.01)))
    (found,) = compare(a, b, ["jct_s"])
    assert found.is_worse(0.02)
    assert not found.is_worse(0.05)  # 5 % may or may not be exceeded
    (back,) = compare(b, a, ["jct_s"])
    assert not back.is_worse(0)


def test_a_mean_that_is_worse_is_not_enough(write_run: WriteRun) -> None:
    setting = load(write_run([{}])).cells[0].setting
    assert not Comparison("jct_s", setting, setting, 1, 9, 10.0, 11.0, 1.1, 1.01, 1.2).is_worse(0.02)
    assert Comparison("jct_s", setting, setting, 1, 9, 10.0, 11.0, 1.1, 1.03, 1.2).is_worse(0.02)


def test_fewer_hits_are_worse(write_run: WriteRun) -> None:
    run = load(write_run([{}]))
    setting = run.cells[0].setting
    found = Comparison("hit_ratio", setting, setting, 1, 9, 0.5, 0.4, 0.8, 0.75, 0.85)
    assert found.is_worse(0.1)
    assert not found.is_worse(0.2)


def test_pairs_are_equal_settings_or_what_is_left_when_policies_differ(write_run: WriteRun) -> None:
    sizes = (256, 512)
    a = load(write_run([{"policy": "lru", "gpu_blocks": size} for size in sizes], "a"))
    b = load(write_run([{"policy": "lae", "gpu_blocks": size} for size in reversed(sizes)], "b"))
    found = compare(a, b, ["jct_s"])
    assert [(row.a.gpu_blocks, row.b.gpu_blocks, row.b.policy) for row in found] == [
        (256, 256, "lae"),
        (512, 512, "lae"),
    ]
    one = load(write_run([{"policy": "lae", "gpu_blocks": 1024}], "one"))
    with pytest.raises(ConfigError, match="a setting and seed that both have"):
        compare(a, one, ["jct_s"])
    assert len(compare(load(write_run([{}], "two")), one, ["jct_s"])) == 1  # one setting each: whatever it is


def test_what_cannot_be_compared_is_said(write_run: WriteRun) -> None:
    folder = write_run([{"policy": "lru"}, {"policy": "lae"}])
    with pytest.raises(ConfigError, match="a policy of that run: lru, lae"):
        open_side(f"{folder}:mori")
    with pytest.raises(ConfigError, match="measure: got speed"):
        compare(load(folder), load(folder), ["speed"])

    def rename(tables: Tables) -> None:
        for rows in tables.values():
            for row in rows:
                if "workflow_id" in row:
                    row["workflow_id"] = f"x{row['workflow_id']}"

    other = load(write_run([{"policy": "lru"}, {"policy": "lae"}], "other", edit=rename))
    with pytest.raises(
        ConfigError, match="workflow ids: got 'w0' and 'xw0', expected at least one that both"
    ):
        compare(load(folder), other, ["jct_s"])


def _with_config(folder: Path, **values: Any) -> Path:
    file = folder / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def _server_without_cached_tokens(tables: Tables) -> None:
    for row in tables["calls"]:
        row.update({name: None for name in row if name.endswith("_tokens") and "prompt" not in name})
        row["num_output_tokens"] = 5


def test_runs_of_different_traces_are_no_pair(write_run: WriteRun) -> None:
    a, b, nameless = (write_run([{}], name) for name in ("a", "b", "nameless"))
    for folder in (a, b):
        _with_config(folder, trace=[{"path": "x.parquet", "digest": folder.name * 20}])
    with pytest.raises(TraceError, match=r"trace: got bbbbbbbbbbbb, expected the trace of .*: aaaaaaaaaaaa"):
        compare(load(a), load(b), ["jct_s"])
    assert compare(load(a), load(nameless), ["jct_s"])  # an older run names none


def test_what_else_differs_is_said(write_run: WriteRun) -> None:
    a = load(_with_config(write_run([{}], "a"), settings={"unknown_gap_s": 0.0, "seeds": [0]}))
    b = load(_with_config(write_run([{}], "b"), settings={"unknown_gap_s": 1.0, "seeds": [1]}))
    assert notes(a, a) == []
    assert notes(a, b) == ["A and B differ in unknown_gap_s 0.0 / 1.0"]
    replayed = load(_with_config(write_run([{}], "c"), engine="replay", device={"type": "cuda"}))
    (note,) = notes(a, replayed)
    assert note.startswith("A was simulated, B replayed on cuda: a difference may be the simulator's error")
    (row,) = compare(a, replayed, ["jct_s"])
    assert (row.engine_a, row.engine_b) == ("simulate", "replay")


def test_workflows_of_one_side_are_counted(write_run: WriteRun) -> None:
    a, b = (load(write_run([{}], f"n{count}", num_workflows=count)) for count in (12, 9))
    (row,) = compare(a, b, ["jct_s"])
    assert (row.num_workflows, row.num_unpaired) == (9, 3)


def test_a_server_that_says_nothing_of_its_cache_has_no_hit_ratio(write_run: WriteRun) -> None:
    a = load(write_run([{}], "a"))
    b = load(write_run([{}], "b", edit=_server_without_cached_tokens))
    assert len(compare(a, b, ["ttft_s"])) == 1
    with pytest.raises(ConfigError, match="hit_ratio, which one of the runs does not know"):
        compare(a, b, ["hit_ratio"])


def test_one_workflow_has_no_interval(write_run: WriteRun) -> None:
    a, b = (load(write_run([{}], name, num_workflows=1)) for name in ("a", "b"))
    (found,) = compare(a, b, ["jct_s"])
    assert (found.low, found.high) == (None, None)
    assert not found.is_worse(0)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty(write_run: WriteRun) -> None:
    """A's and B's workflows of one population, 40 at a time: the truth is a ratio of 1."""
    rng, hits, trials = np.random.default_rng(0), 0, 60
    for trial in range(trials):
        values = rng.gamma(4, 5, (2, 40))
        ones = [np.ones(40)]
        low, high = _bootstrap([[values[0]], [values[1]]], [ones, ones], trial)
        assert low is not None
        assert high is not None
        hits += low <= 1 <= high
    assert 0.85 * trials <= hits  # a binomial of 0.95 falls below in 1 of 500


def test_frames_are_left_as_they_were(write_run: WriteRun) -> None:
    run = load(write_run([{}]))
    before = run.calls.copy()
    compare(run, run, ["jct_s"])
    pd.testing.assert_frame_equal(run.calls, before)
