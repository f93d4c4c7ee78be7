"""Sweeps: the same content whoever runs the cells, nothing done twice, failures kept with their reason."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from pbkv.sim.run import simulate
from pbkv.study.cell import StudyCell
from pbkv.study.cells import Kept
from pbkv.study.dataset import content_digest
from pbkv.study.scenario import Scenario, read_scenario
from pbkv.study.sweep import SweepResult, study_folder, sweep
from pbkv.study.workers import Processes, RayCluster, Workers
from pbkv.traces.errors import ConfigError
from pbkv.traces.reader import Trace

TRACE = Path(__file__).parents[1] / "data" / "hover-30.parquet"
SMALL = """
traces = [{ path = "hover.parquet", num_workflows = 8 }]
policies = ["lru", "lru+admission", { name = "pbkv", gamma = 0.9 }]
profiles = ["2xa6000-qwen3-32b"]
gpu_blocks = [100, 1000]
concurrencies = [4]
"""


def scenario(folder: Path, text: str = SMALL) -> Scenario:
    shutil.copy(TRACE, folder / "hover.parquet")
    (folder / "s.toml").write_text(text)
    return read_scenario(folder / "s.toml")


def swept(
    read: Scenario,
    out: Path,
    workers: Workers = Processes(1),  # noqa: B008 - immutable
    *,
    keep_records: bool = False,
    retry_failed: bool = False,
) -> SweepResult:
    return sweep(read, out, workers, lambda *_: None, keep_records=keep_records, retry_failed=retry_failed)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scenario, Path]:
    """The small scenario and the folder that one process has swept it into."""
    folder = tmp_path_factory.mktemp("small")
    read = scenario(folder)
    swept(read, folder / "out")
    return read, folder / "out"


def test_pandas_and_duckdb_read_the_data_set_as_it_is(small: tuple[Scenario, Path]) -> None:
    out = small[1]
    frame = pd.read_parquet(out / "cells")
    rows = duckdb.connect().execute(f"select * from read_parquet('{out}/cells/**/*.parquet')").df()
    assert len(frame) == len(rows) == 6
    assert set(frame["policy"]) == set(rows["policy"]) == {"lru", "lru+admission", "pbkv"}
    assert set(rows["trace"]) == {"hover"}
    columns = ["cell", "jct_s", "ttft_p95_s"]
    ordered = [table.sort_values("cell")[columns].reset_index(drop=True) for table in (frame, rows)]
    pd.testing.assert_frame_equal(ordered[0], ordered[1])


def test_a_failure_is_a_row_with_its_reason(small: tuple[Scenario, Path]) -> None:
    frame = pd.read_parquet(small[1] / "cells")
    failed = frame[frame["gpu_blocks"] == 100]
    assert list(failed["status"].unique()) == ["failed"]
    assert failed["reason"].str.match(r"hover: workflow .* got \d+ tokens, expected at most").all()
    assert failed["jct_s"].isna().all()
    assert list(frame[frame["gpu_blocks"] == 1000]["status"].unique()) == ["ok"]


def test_a_row_is_what_simulate_says(small: tuple[Scenario, Path], tmp_path: Path) -> None:
    frame = pd.read_parquet(small[1] / "cells")
    row = frame[(frame["gpu_blocks"] == 1000) & (frame["policy"] == "pbkv")].iloc[0]
    cell = next(cell for cell in _cells(small[0]) if cell.cell_id == row["cell_id"])
    simulate([Trace(cell.trace.path)], cell.make_settings(), tmp_path / "run")
    workflows = pd.read_parquet(tmp_path / "run" / "workflows.parquet")
    assert row["jct_s"] == pytest.approx((workflows["ended_at_s"] - workflows["released_at_s"]).mean())
    assert row["num_workflows"] == len(workflows) == 8


def _cells(read: Scenario) -> list[StudyCell]:
    from pbkv.study.prepare import prepare

    folder = read.traces[0].path.parent
    return read.cells([prepare(source, folder / "out") for source in read.traces])


def test_two_processes_give_the_same_content(small: tuple[Scenario, Path], tmp_path: Path) -> None:
    swept(small[0], tmp_path / "out", Processes(2))
    assert content_digest(tmp_path / "out") == content_digest(small[1])


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_a_local_ray_gives_the_same_content(small: tuple[Scenario, Path], tmp_path: Path) -> None:
    swept(small[0], tmp_path / "out", RayCluster("local", 2))
    assert content_digest(tmp_path / "out") == content_digest(small[1])


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_where_no_cluster_answers_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ray: got 127.0.0.1:1, expected local, auto or a running"):
        swept(scenario(tmp_path), tmp_path / "out", RayCluster("127.0.0.1:1", 2))


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_it_is_named() -> None:
    from pbkv.study.workers import load_ray

    with pytest.raises(ConfigError, match=r"ray: got not installed, expected pip install 'pbkv\[ray\]'"):
        load_ray()


@dataclass(frozen=True)
class Nobody:
    """Workers that must not be asked for anything."""

    def outcomes(self, jobs: object) -> object:
        assert not jobs, "nothing was left to run"
        return iter(())


def test_a_second_call_runs_nothing_and_a_larger_scenario_only_what_is_new(
    small: tuple[Scenario, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(small[1], out)
    assert swept(small[0], out, Nobody()).num_taken_up == 6  # type: ignore[arg-type] # asked for nothing
    assert content_digest(out) == content_digest(small[1])
    larger = scenario(tmp_path, SMALL.replace("[100, 1000]", "[1000, 1500]"))
    result = swept(larger, out)
    assert (result.num_taken_up, len(result.rows)) == (3, 6)
    assert pd.read_parquet(out / "cells")["gpu_blocks"].min() == 1000


def test_failures_are_run_again_if_asked_to(small: tuple[Scenario, Path], tmp_path: Path) -> None:
    shutil.copytree(small[1], tmp_path / "out")
    assert swept(small[0], tmp_path / "out", retry_failed=True).num_taken_up == 3
    assert content_digest(tmp_path / "out") == content_digest(small[1])


def test_records_of_workflows_are_kept_if_asked_for(small: tuple[Scenario, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(small[1], out)
    assert swept(small[0], out, keep_records=True).num_taken_up == 3  # the failures have none
    workflows = pd.read_parquet(out / "workflows")
    cells = pd.read_parquet(out / "cells").query("status == 'ok'").set_index("cell_id")
    means = workflows.groupby("cell_id")["jct_s"].mean()
    assert len(workflows) == 3 * 8
    assert means.to_dict() == pytest.approx(cells["jct_s"].to_dict())


def test_what_is_not_a_study_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"output: got .*, expected a folder that is empty"):
        swept(scenario(tmp_path), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_two_calls_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with study_folder(tmp_path / "out"), pytest.raises(ConfigError, match="no other call is working in"):
        swept(scenario(tmp_path), tmp_path / "out")


def test_a_trace_that_cannot_be_read_ends_the_call_in_one_line(tmp_path: Path) -> None:
    scenario(tmp_path)
    (tmp_path / "hover.parquet").write_bytes(b"PAR1 no more")
    found = _pbkv(tmp_path, "sweep", "s.toml", "-o", "out")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("error: ")


def test_killed_in_the_middle_it_goes_on_without_redoing_a_cell(tmp_path: Path) -> None:
    """kill -9 of the command; then the same command: each cell once, the content of an undisturbed sweep."""
    text = SMALL.replace("[100, 1000]", "[1000, 1100, 1200, 1300]")
    swept(scenario(tmp_path, text), tmp_path / "undisturbed")
    arguments = [sys.executable, "-m", "pbkv", "sweep", "s.toml", "-o", "out", "--workers", "2"]
    journal = tmp_path / "out" / ".work" / "cells.jsonl"
    with subprocess.Popen(arguments, cwd=tmp_path, env=_paths(), stderr=subprocess.DEVNULL) as process:
        while _num_lines(journal) < 3 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    num_kept = _num_lines(journal)
    assert 3 <= num_kept < 12
    assert not (tmp_path / "out" / "cells").exists()
    again = _pbkv(tmp_path, "sweep", "s.toml", "-o", "out", "--workers", "2")
    assert f"12 cells: 12 ok, 0 failed; {num_kept} were there" in again.stdout
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines() if line.endswith("}")]
    assert len(keys) == len(set(keys)) == 12
    assert content_digest(tmp_path / "out") == content_digest(tmp_path / "undisturbed")
    assert not list((tmp_path / "out" / ".work").glob(".cell-*"))


def test_cells_of_other_code_are_run_again(small: tuple[Scenario, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(small[1], out)
    journal = out / ".work" / "cells.jsonl"
    rows = [{**json.loads(line), "state": "other"} for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Kept(journal, "other").rows
    again = swept(small[0], out)
    assert (again.num_taken_up, again.num_outdated) == (0, len(rows))


def test_a_full_disk_is_no_result_of_a_cell(small: tuple[Scenario, Path], tmp_path: Path) -> None:
    """It ends the call, and what has ended is kept; nothing becomes a failure for it."""
    out = tmp_path / "out"
    shutil.copytree(small[1], out)
    shutil.rmtree(out / ".work" / "records")
    (out / ".work" / "records").symlink_to("/dev/full")  # no folder can be there
    with pytest.raises(OSError, match="records"):
        swept(small[0], out, keep_records=True)
    (out / ".work" / "records").unlink()
    assert swept(small[0], out).num_taken_up == 6


def test_what_is_to_be_known_is_said(tmp_path: Path) -> None:
    """Equal combinations, and a sweep without a result: exit status 1."""
    scenario(tmp_path, SMALL.replace("[100, 1000]", "[100]") + "host_ratios = [0, 0.001]\n")
    done = _pbkv(tmp_path, "sweep", "s.toml", "-o", "out", "--workers", "1")
    assert done.returncode == 1
    assert "3 cells: 0 ok, 3 failed" in done.stdout
    assert "3 more combinations are equal to one of these: run once" in done.stdout


def _num_lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def _paths() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _pbkv(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pbkv", *arguments]
    return subprocess.run(command, cwd=folder, env=_paths(), capture_output=True, text=True, check=False)
