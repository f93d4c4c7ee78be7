"""Fidelity: a run is its own perfect replay, and errors that are put in come out as they were put in."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pbkv.analysis.decision_logs import match
from pbkv.analysis.fidelity import MEASURES, Fidelity, compare
from pbkv.analysis.fidelity_report import draw, to_dict, to_markdown
from pbkv.analysis.load import load
from pbkv.analysis.ranking import kendall_tau
from pbkv.sim import Settings, load_profile, simulate
from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.generate import generate_workload, workload_metadata
from pbkv.traces.records import TABLES
from pbkv.traces.sources import open_trace
from pbkv.traces.writer import write_trace

Edit = Callable[[pd.DataFrame], object]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fidelity")
    path = folder / "hover.parquet"
    write_trace(path, generate_workload("hover", 12, 3), workload_metadata("hover", 12, 3))
    profile = load_profile("a6000-qwen3-14b")
    settings = Settings(profile, policies=("lru", "lae", "pbkv"), gpu_blocks=(900,), concurrencies=(6,))
    with open_trace(path) as trace:
        simulate([trace], settings, folder / "run")
    return folder / "run"


def replay_of(simulated: Path, target: Path, edits: dict[str, Edit], **config: object) -> Path:
    """A copy of the run with tables changed in place by ``edits`` and some of run.json replaced."""
    shutil.copytree(simulated, target)
    for table, edit in edits.items():
        file = target / f"{table}.parquet"
        frame = pq.read_table(file).to_pandas()
        edit(frame)
        pq.write_table(pa.Table.from_pandas(frame, TABLES[table], preserve_index=False), file)
    about = json.loads((target / "run.json").read_text())
    (target / "run.json").write_text(json.dumps(about | config))
    return target


def compared(simulated: Path, *replays: Path) -> Fidelity:
    return compare(load(simulated), [load(path) for path in replays])


def test_a_run_is_its_own_perfect_replay(simulated: Path) -> None:
    found = compared(simulated, simulated)
    assert [cell.setting.policy for cell in found.cells] == ["lru", "lae", "pbkv"]
    for cell in found.cells:
        assert [cell.measures[name].error for name in MEASURES] == [0] * len(MEASURES)
        assert set(cell.paired_errors.values()) == {0}
        assert (cell.num_unmatched_calls, cell.equal_hits_share) == (0, 1)
        assert [logs[0].first_difference for logs in cell.logs.values()] == [None, None]
        assert all(logs[0].num_simulated > 0 for logs in cell.logs.values())
    (ranking,) = found.rankings
    assert (ranking.is_identical, ranking.kendall_tau) == (True, 1)
    assert [speedup.error for speedup in ranking.speedups] == [0, 0]


def test_errors_put_in_come_out(simulated: Path, tmp_path: Path) -> None:
    def slower(calls: pd.DataFrame) -> None:  # first token 10 % later, then 4 % slower tokens
        waited = 1.1 * (calls.first_token_at_s - calls.submitted_at_s)
        decoded = 1.04 * (calls.ended_at_s - calls.first_token_at_s)
        calls["first_token_at_s"] = calls.submitted_at_s + waited
        calls["ended_at_s"] = calls.first_token_at_s + decoded

    def longer(workflows: pd.DataFrame) -> None:
        workflows["ended_at_s"] = workflows.released_at_s + 1.25 * (
            workflows.ended_at_s - workflows.released_at_s
        )

    replay = replay_of(simulated, tmp_path / "replay", {"calls": slower, "workflows": longer})
    for cell in compared(simulated, replay).cells:
        error = {name: cell.measures[name].error for name in MEASURES}
        assert error["ttft_s"] == pytest.approx(1 / 1.1 - 1)
        assert error["ttft_p99_s"] == pytest.approx(1 / 1.1 - 1)
        assert error["tpot_s"] == pytest.approx(1 / 1.04 - 1)
        assert error["jct_s"] == pytest.approx(1 / 1.25 - 1)
        assert cell.paired_errors == pytest.approx(
            {"ttft_s": 1 - 1 / 1.1, "tpot_s": 1 - 1 / 1.04, "jct_s": 0.2}
        )
        reached = [cell.reaches(name) for name in ("ttft_s", "ttft_p99_s", "tpot_s", "jct_s")]
        assert reached == [False, True, False, False]
    text = to_markdown(compared(simulated, replay))
    assert text.count("TTFT, TPOT, workflow latency") == 3  # all three cells stay, with what they missed


def test_errors_of_calls_do_not_cancel_as_those_of_means_do(simulated: Path, tmp_path: Path) -> None:
    def swapped(workflows: pd.DataFrame) -> None:
        for _, rows in workflows.groupby("cell"):
            spans = (rows.ended_at_s - rows.released_at_s).to_numpy()
            workflows.loc[rows.index, "ended_at_s"] = rows.released_at_s.to_numpy() + spans[::-1]

    cell = compared(simulated, replay_of(simulated, tmp_path / "r", {"workflows": swapped})).cells[0]
    assert cell.measures["jct_s"].error == pytest.approx(0)
    assert cell.paired_errors["jct_s"] > 0.05


def test_one_call_with_other_hits_is_one_call(simulated: Path, tmp_path: Path) -> None:
    def other_hits(calls: pd.DataFrame) -> None:
        calls.loc[calls.index[calls.cell == 0][0], "num_gpu_hit_tokens"] += 16

    first, second, _ = compared(simulated, replay_of(simulated, tmp_path / "r", {"calls": other_hits})).cells
    assert first.equal_hits_share == pytest.approx(1 - 1 / first.num_calls)
    assert first.hit_tokens[1] == first.hit_tokens[0] + 16
    assert second.equal_hits_share == 1


def test_what_the_replay_does_not_know_is_left_open(simulated: Path, tmp_path: Path) -> None:
    def unknown(calls: pd.DataFrame) -> None:
        for name in ("gpu_hit", "host_hit", "loading"):
            calls[f"num_{name}_tokens"] = None
        calls["first_token_at_s"] = None

    replay = replay_of(simulated, tmp_path / "r", {"calls": unknown})
    (replay / "cache_events.parquet").unlink()
    found = compared(simulated, replay)
    assert to_dict(found)["cells"][0]["equal_hits_share"] is None
    assert found.cells[0].logs == {}
    assert found.cells[0].reaches("ttft_s") is None
    assert "TTFT not known, TTFT p99 not known, TPOT not known, workflow latency 3 of 3" in to_markdown(found)
    assert found.cells[0].hit_tokens[0] > 0
    assert to_dict(found)["cells"][0]["hit_tokens"]["replayed"] is None
    assert "Decisions" not in to_markdown(found)


def test_repeats_have_a_mean_and_a_spread(simulated: Path, tmp_path: Path) -> None:
    def longer_by(factor: float) -> Edit:
        def edit(workflows: pd.DataFrame) -> None:
            workflows["released_at_s"] *= factor
            workflows["ended_at_s"] *= factor

        return edit

    repeats = [
        replay_of(simulated, tmp_path / str(factor), {"workflows": longer_by(factor)})
        for factor in (0.9, 1.1, 1.3)
    ]
    found = compared(simulated, *repeats)
    measured = found.cells[0].measures["jct_s"]
    assert measured.error == pytest.approx(1 / 1.1 - 1)
    assert measured.spread == pytest.approx(0.4 / 1.1)
    assert found.rankings[0].repeat_taus == (1, 1, 1)
    assert "3 replays" in to_markdown(found)


def test_another_ranking_is_seen(simulated: Path, tmp_path: Path) -> None:
    means = {
        cell.setting.policy: cell.measures["jct_s"].simulated[0]
        for cell in compared(simulated, simulated).cells
    }
    best = min(means, key=lambda policy: means[policy])

    def best_is_worst(workflows: pd.DataFrame) -> None:
        workflows.loc[workflows.policy == best, "ended_at_s"] *= 2

    (ranking,) = compared(
        simulated, replay_of(simulated, tmp_path / "r", {"workflows": best_is_worst})
    ).rankings
    assert ranking.simulated[0] == ranking.replayed[-1] == best
    assert ranking.kendall_tau == pytest.approx(-1 / 3)  # two of three pairs the other way round
    assert not ranking.is_identical


def test_logs_part_where_they_part() -> None:
    log = [("evict", number, "a", "b", "admit") for number in range(4)]
    changed = [*log[:2], ("drop", 2, "a", "b", "admit"), *log[3:]]
    found = match(log, changed)
    assert (found.first_difference, found.equal_share, found.common_share) == (2, 0.75, 0.75)
    assert (found.simulated_entry, found.replayed_entry) == (
        "evict 2 blocks of a for b (admit)",
        "drop 2 blocks of a for b (admit)",
    )
    shifted = match(log, log[1:])
    assert (shifted.first_difference, shifted.equal_share, shifted.common_share) == (0, 0, 0.75)
    assert match(log, log[:3]).first_difference == 3
    assert (match([], []).first_difference, match([], []).equal_share) == (None, 1)


def test_tau_counts_pairs() -> None:
    one = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert kendall_tau(one, one) == 1
    assert kendall_tau(one, {"a": 3.0, "b": 2.0, "c": 1.0}) == -1
    assert kendall_tau(one, {"a": 2.0, "b": 1.0, "c": 3.0}) == pytest.approx(1 / 3)
    assert kendall_tau(one, {"a": 1.0, "b": 1.0, "c": 3.0}) == pytest.approx(2 / 3)
    assert kendall_tau({"a": 1.0}, {"a": 2.0}) == 1


def test_cpu_has_its_own_bar_and_stopped_cells_stay(simulated: Path, tmp_path: Path) -> None:
    cells = json.loads((simulated / "run.json").read_text())["cells"]
    cells[1]["stopped"] = "out of memory"
    found = compared(simulated, replay_of(simulated, tmp_path / "r", {}, device={"type": "cpu"}, cells=cells))
    assert found.cells[0].bars["jct_s"] == 0.10
    assert compared(simulated, simulated).cells[0].bars["jct_s"] == 0.05
    assert "stopped: out of memory" in to_markdown(found)


def test_cells_in_one_run_only_are_named(simulated: Path, tmp_path: Path) -> None:
    cells = json.loads((simulated / "run.json").read_text())["cells"]
    found = compared(simulated, replay_of(simulated, tmp_path / "r", {}, cells=cells[:2]))
    assert len(found.cells) == 2
    assert "not compared: pbkv · GPU 900" in to_markdown(found)


def test_runs_that_cannot_be_compared_are_refused(simulated: Path, tmp_path: Path) -> None:
    other = replay_of(simulated, tmp_path / "trace", {}, trace=[{"digest": "another"}])
    with pytest.raises(TraceError, match=r"another.*, expected the trace of"):
        compared(simulated, other)
    with pytest.raises(ConfigError, match="baseline: got mori, expected a policy of both runs: lru, lae"):
        compare(load(simulated), [load(simulated)], baseline="mori")
    cells = json.loads((simulated / "run.json").read_text())["cells"]
    bigger = replay_of(simulated, tmp_path / "big", {}, cells=[cell | {"gpu_blocks": 7} for cell in cells])
    with pytest.raises(TraceError, match="cells: got none in common"):
        compared(simulated, bigger)


def test_figure_and_json_are_written(simulated: Path) -> None:
    found, target = compared(simulated, simulated, simulated), io.BytesIO()
    draw(found, target)
    assert target.getvalue()[:8] == b"\x89PNG\r\n\x1a\n"
    assert json.loads(json.dumps(to_dict(found), allow_nan=False))["num_repeats"] == 2


def test_the_command_prints_and_refuses(simulated: Path, tmp_path: Path) -> None:
    def pbkv(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pbkv", "fidelity", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    figure = tmp_path / "fidelity.png"
    done = pbkv(simulated, simulated, "--json", "--figure", figure)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["rankings"][0]["is_identical"]
    assert figure.is_file()
    refused = pbkv(simulated, tmp_path / "none")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "none: run: got nothing" in refused.stderr
