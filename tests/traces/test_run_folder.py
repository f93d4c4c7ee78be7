"""The folder of a run: whole or not there."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pbkv.traces.errors import ConfigError
from pbkv.traces.records import TABLES
from pbkv.traces.run_folder import RunFolder

ROW = ("w0", "app", 1.5, 2.5, 3)


def write(path: Path, num_cells: int = 1, keep: set[int] | None = None, *, force: bool = False) -> None:
    with RunFolder(path, force=force) as folder:
        for cell in range(num_cells):
            folder.start_cell(cell, "lru", 10, 20, 7)
            folder.add("workflows", ROW)
            folder.end_cell()
        folder.publish({"complete": True}, keep)


def test_all_tables_are_there_with_their_schemas(tmp_path: Path) -> None:
    write(tmp_path / "run")
    for name, schema in TABLES.items():
        assert pq.read_schema(tmp_path / "run" / f"{name}.parquet").equals(schema)
    (row,) = pq.read_table(tmp_path / "run" / "workflows.parquet").to_pylist()
    assert tuple(row.values()) == (0, "lru", 10, 20, 7, *ROW)


def test_nothing_is_left_of_a_run_that_failed(tmp_path: Path) -> None:
    def fail() -> None:
        with RunFolder(tmp_path / "run") as folder:
            folder.start_cell(0, "lru", 1, 1, 0)
            folder.add("workflows", ROW)
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_only_whole_cells_of_an_interrupted_run_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "run", num_cells=3, keep={0, 1})
    assert pq.read_table(tmp_path / "run" / "workflows.parquet").column("cell").to_pylist() == [0, 1]


def test_an_earlier_run_is_replaced_only_by_force_and_nothing_else_ever(tmp_path: Path) -> None:
    write(tmp_path / "run")
    with pytest.raises(ConfigError, match="--force"):
        write(tmp_path / "run")
    write(tmp_path / "run", num_cells=2, force=True)
    assert pq.read_table(tmp_path / "run" / "workflows.parquet").num_rows == 2
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="earlier run"):
        write(tmp_path / "mine", force=True)


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".run.4194305.tmp").mkdir()  # above the largest process id
    write(tmp_path / "run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_many_rows_are_written_as_they_come(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.start_cell(0, "lru", 10, 20, 7)
        for _ in range(20_000):
            folder.add("workflows", ROW)
        folder.end_cell()
        folder.publish({"complete": True})
    assert pq.ParquetFile(tmp_path / "run" / "workflows.parquet").metadata.num_row_groups == 3
