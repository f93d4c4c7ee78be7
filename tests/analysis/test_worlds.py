"""Worlds: cells that may be compared come together, whatever folder they are in; others stay apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pbkv.analysis.load import load
from pbkv.analysis.metrics import by_workflow
from pbkv.analysis.summary import summarise_cells
from pbkv.analysis.worlds import find_runs, selected, worlds_of
from pbkv.traces.errors import TraceError

WriteRun = Callable[..., Path]


def _with_config(folder: Path, **values: Any) -> Path:
    file = folder / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def test_one_run_is_a_world_as_it_is(write_run: WriteRun) -> None:
    folder = write_run([{"policy": "lru"}, {"policy": "lae"}])
    (world,) = worlds_of([folder])
    assert world.run.path == folder
    assert not world.is_replay
    assert world.name == "unnamed trace"


def test_runs_of_one_trace_are_joined_and_read_like_one(write_run: WriteRun) -> None:
    cells = [{"policy": "lru"}, {"policy": "lae"}, {"policy": "pbkv"}]
    first, second = write_run(cells[:2], "first"), write_run(cells[2:], "second")
    (world,) = worlds_of([first, second])
    assert [(cell.cell, cell.setting.policy) for cell in world.run.cells] == [
        (0, "lru"),
        (1, "lae"),
        (2, "pbkv"),
    ]
    mine, theirs = summarise_cells(world.run), [*summarise_cells(load(first)), *summarise_cells(load(second))]
    assert [cell.jct_s for cell in mine] == [cell.jct_s for cell in theirs]
    rows = by_workflow(world.run)
    assert rows.groupby("cell").size().tolist() == [12, 12, 12]
    assert (rows[rows.cell == 2].policy == "pbkv").all()


def test_a_cell_that_is_there_twice_counts_once_and_the_last_one(write_run: WriteRun) -> None:
    first, second = (
        write_run([{"policy": "lru"}, {"policy": "lae"}], "first"),
        write_run([{"policy": "lae"}], "second"),
    )
    (world,) = worlds_of([first, second])
    assert (len(world.run.cells), world.num_repeated) == (2, 1)
    lae = by_workflow(world.run).query("policy == 'lae'").jct_s.tolist()
    assert lae == by_workflow(load(second)).jct_s.tolist()
    assert lae != by_workflow(load(first)).query("policy == 'lae'").jct_s.tolist()


@pytest.mark.parametrize(
    "different",
    [
        {"trace": [{"path": "b.parquet", "digest": "2"}]},
        {"profile": {"name": "h100"}},
        {"settings": {"unknown_gap_s": 1.0}},
        {"engine": "replay"},
    ],
)
def test_another_trace_machine_rule_or_engine_is_another_world(write_run: WriteRun, different: Any) -> None:
    shared = {"trace": [{"path": "a.parquet", "digest": "1"}], "settings": {"unknown_gap_s": 0.0}}
    first = _with_config(write_run([{}], "first"), **shared)
    second = _with_config(write_run([{}], "second"), **(shared | different))
    worlds = worlds_of([first, second])
    assert len(worlds) == 2
    assert len({world.name for world in worlds}) == 2
    assert [world.is_replay for world in worlds] == [False, different == {"engine": "replay"}]


def test_what_cells_have_of_their_own_makes_no_other_world(write_run: WriteRun) -> None:
    first = _with_config(write_run([{"gpu_blocks": 512}], "first"), settings={"gpu_blocks": [512]})
    second = _with_config(write_run([{"gpu_blocks": 256}], "second"), settings={"gpu_blocks": [256]})
    (world,) = worlds_of([first, second])
    assert [cell.setting.gpu_blocks for cell in world.run.cells] == [512, 256]


def test_the_runs_below_a_folder_are_found_but_not_hidden_ones(write_run: WriteRun, tmp_path: Path) -> None:
    (tmp_path / "sweep" / ".part").mkdir(parents=True)
    found = [write_run([{}], f"sweep/{name}") for name in ("a", "b", ".part/c")]
    assert find_runs(tmp_path / "sweep") == found[:2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match="a folder without run"):
        find_runs(tmp_path / "empty")


def test_some_cells_of_a_run_are_read_alone(write_run: WriteRun) -> None:
    run = load(write_run([{"policy": "lru"}, {"policy": "lae"}]))
    (summary,) = summarise_cells(selected(run, run.cells[1:]))
    assert summary == summarise_cells(run)[1]
