"""Writes the folder of a run: streamed Parquet tables and run.json, under a temporary name.

The folder appears under its own name when all of it is there. What an interrupted run has finished is
kept: whole cells, and nothing of the one in progress.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pbkv.traces.columns import column, repeated
from pbkv.traces.errors import ConfigError
from pbkv.traces.records import CELL_FIELDS, REPLAY_TABLES, TABLES
from pbkv.traces.temporary import temporary_beside

_ROWS_PER_GROUP = 8192
_SCHEMAS = TABLES | REPLAY_TABLES


class RunFolder:
    """A context manager. Each row is a tuple of its table's fields behind the cell's own.

    Rows wait in memory until a row group is full, or the cell ends. ``force`` replaces an earlier
    run, and nothing but a run. Raises ConfigError if ``path`` is taken or cannot be made.
    """

    def __init__(self, path: Path, *, tables: Collection[str] = TABLES.keys(), force: bool = False) -> None:
        _check_free(path, force)
        self.path = path
        self.tables = tables
        self._temporary = temporary_beside(path)
        self._rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in tables}
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._cell: tuple[str | int, ...] = ()
        self.wall_s = 0.0  # spent on writing so far

    def __enter__(self) -> RunFolder:
        try:
            self._temporary.mkdir()
            for table in self.tables:
                self._writers[table] = _new_writer(self._file(table), _SCHEMAS[table])
        except BaseException:  # an interrupt too
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if self._temporary.exists():  # not published
            self._close_tables()
            shutil.rmtree(self._temporary)

    def start_cell(self, cell: int, policy: str, gpu_blocks: int, host_blocks: int, seed: int) -> None:
        """From here on rows belong to this cell."""
        self._cell = (cell, policy, gpu_blocks, host_blocks, seed)

    def add(self, table: str, row: tuple[Any, ...]) -> None:
        self.extend(table, (row,))

    def extend(self, table: str, more: Iterable[tuple[Any, ...]]) -> None:
        rows = self._rows[table]
        rows.extend(more)
        if len(rows) >= _ROWS_PER_GROUP:
            self._flush(table)

    def end_cell(self) -> None:
        for table in self.tables:
            self._flush(table)

    def publish(self, config: Mapping[str, Any], cells: Collection[int] | None = None) -> None:
        """Write run.json and give the folder its name; with ``cells`` keep the rows of those only."""
        self._close_tables()
        if cells is not None:
            for table in self.tables:
                _keep_cells(self._file(table), cells)
        (self._temporary / "run.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        if self.path.exists():
            shutil.rmtree(self.path)
        self._temporary.rename(self.path)

    def _file(self, table: str) -> Path:
        return self._temporary / f"{table}.parquet"

    def _flush(self, table: str) -> None:
        started_at_s = perf_counter()
        rows, self._rows[table] = self._rows[table], []
        if rows:
            self._writers[table].write_batch(_batch(table, self._cell, rows))
        self.wall_s += perf_counter() - started_at_s

    def _close_tables(self) -> None:
        for writer in self._writers.values():
            writer.close()


def _check_free(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise ConfigError("output", str(path), "a folder that does not exist (or --force)")
    if path.exists() and not (path / "run.json").is_file():
        raise ConfigError("output", str(path), "a new folder, or the folder of an earlier run")
    if not path.absolute().parent.is_dir():
        raise ConfigError("output", str(path), f"an existing folder {path.absolute().parent}")


def _new_writer(file: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Times are stored as they are, all that repeats by dictionary: two thirds of the default's size."""
    times = {field.name for field in schema if pa.types.is_floating(field.type)}
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=[name for name in schema.names if name not in times],
        write_statistics=False,
        store_schema=False,
    )


def _batch(table: str, cell: Sequence[str | int], rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    schema = _SCHEMAS[table]
    constant = [
        repeated(value, len(rows), field.type) for value, field in zip(cell, CELL_FIELDS, strict=True)
    ]
    fields = list(schema)[len(constant) :]
    varying = [
        column(values, field.type) for values, field in zip(zip(*rows, strict=True), fields, strict=True)
    ]
    return pa.RecordBatch.from_arrays([*constant, *varying], schema=schema)


def _keep_cells(file: Path, cells: Collection[int]) -> None:
    table = pq.read_table(file)
    kept = pa.array([cell in cells for cell in table.column("cell").to_pylist()], pa.bool_())
    with _new_writer(file, table.schema) as writer:
        writer.write_table(table.filter(kept))
