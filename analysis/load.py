"""Opens the folder of a run: run.json is read and checked at once, each table when it is asked for.

Nothing heavy is imported here: ``Run.frame`` imports pandas, ``Run.batches`` does without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pbkv.traces.errors import TraceError
from pbkv.traces.records import TABLES

if TYPE_CHECKING:
    import pandas as pd

_ROWS_PER_BATCH = 16_384


@dataclass(frozen=True, slots=True)
class Setting:
    """What makes two cells comparable: all but the seed. ``policy_note`` goes behind the policy's name."""

    policy: str
    gpu_blocks: int
    host_blocks: int
    write_mode: str
    concurrency: int | None  # None: open loop
    open_loop: bool
    block_size: int  # tokens
    policy_note: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """The policy as tables name it."""
        return f"{self.policy} ({self.policy_note})" if self.policy_note else self.policy


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulated or replayed cell: ``cell`` is its number in the tables."""

    cell: int
    seed: int
    setting: Setting


@dataclass(frozen=True)
class Run:
    """A run. ``config`` is the whole of run.json; tables are read when first asked for."""

    path: Path
    config: Mapping[str, Any]
    cells: Sequence[Cell]

    @cached_property
    def calls(self) -> pd.DataFrame:
        """One row a call (`pbkv.traces.records.CALLS`)."""
        return self.frame("calls")

    @cached_property
    def workflows(self) -> pd.DataFrame:
        """One row a workflow (`pbkv.traces.records.WORKFLOWS`)."""
        return self.frame("workflows")

    @cached_property
    def cache_events(self) -> pd.DataFrame:
        """One row a cache event (`pbkv.traces.records.EVENTS`); InputError if the run has none."""
        return self.frame("cache_events")

    @cached_property
    def occupancy(self) -> pd.DataFrame:
        """One row a sample of the engine's state (`pbkv.traces.records.OCCUPANCY`)."""
        return self.frame("occupancy")

    def has(self, table: str) -> bool:
        """Whether the table was written: cache events are optional."""
        return self._file(table).is_file()

    def frame(self, table: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A table as a pandas frame. Raises TraceError if it is absent or not of its schema."""
        wanted = None if columns is None else list(columns)
        frame: pd.DataFrame = self._open(table).read(columns=wanted).to_pandas()
        return frame

    def batches(self, table: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of a table as a stream, without pandas. Raises as ``frame`` does."""
        opened = self._open(table)
        yield from opened.iter_batches(_ROWS_PER_BATCH, columns=list(columns), use_threads=False)

    def _file(self, table: str) -> Path:
        return self.path / f"{table}.parquet"

    def _open(self, table: str) -> pq.ParquetFile:
        path = self._file(table)
        if not path.is_file():
            raise TraceError(self.path, "tables", sorted(_tables(self.path)), f"{path.name} among them")
        try:
            opened = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise TraceError(path, "file", error, "a complete Parquet file") from error
        _check_schema(path, opened.schema_arrow, TABLES[table])
        return opened


def load(path: Path | str) -> Run:
    """Open the run in folder ``path``.

    An interrupted run has whole cells only and is opened like any other. Raises TraceError if it is no
    folder of a run, or if run.json is not what `pbkv simulate` writes.
    """
    folder = Path(path)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise TraceError(folder, "run", found, "a folder written by `pbkv simulate`")
    file = folder / "run.json"
    config = _read_json(file)
    entries = config.get("cells")
    if not isinstance(entries, list) or not entries:
        raise TraceError(file, "cells", entries, "a list of at least one cell")
    cells = [_cell(file, index, entry) for index, entry in enumerate(entries)]
    numbers = [cell.cell for cell in cells]
    if len(set(numbers)) != len(numbers):
        raise TraceError(file, "cells", numbers, "a number of its own for each cell")
    return Run(folder, config, cells)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise TraceError(file.parent, "run.json", "nothing", "the configuration of a finished run")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TraceError(file, "text", error, "a JSON object") from error
    if not isinstance(config, dict):
        raise TraceError(file, "text", config, "a JSON object")
    return config


def _cell(file: Path, index: int, entry: object) -> Cell:
    where = f"cells[{index}]"
    if not isinstance(entry, dict):
        raise TraceError(file, where, entry, "an object")

    def value(name: str, kind: type, expected: str) -> Any:
        found = entry.get(name)
        if type(found) is not kind:
            raise TraceError(file, f"{where}.{name}", found, expected)
        return found

    concurrency = None if entry.get("concurrency") is None else value("concurrency", int, "a number or null")
    setting = Setting(
        policy=value("policy", str, "the name of a policy"),
        gpu_blocks=value("gpu_blocks", int, "a number of blocks"),
        host_blocks=value("host_blocks", int, "a number of blocks"),
        write_mode=value("write_mode", str, "the name of a write mode"),
        concurrency=concurrency,
        open_loop=value("open_loop", bool, "true or false"),
        block_size=value("block_size", int, "a number of tokens"),
        policy_note=value("policy_note", str, "a text") if "policy_note" in entry else "",
    )
    return Cell(value("cell", int, "a number"), value("seed", int, "a number"), setting)


def _tables(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.parquet")}


def _check_schema(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    for wanted in expected:
        if wanted.name not in found.names:
            raise TraceError(path, "columns", found.names, f"a column {wanted.name} ({wanted.type})")
        if found.field(wanted.name).type != wanted.type:
            raise TraceError(path, wanted.name, str(found.field(wanted.name).type), str(wanted.type))
