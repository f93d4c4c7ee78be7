"""The results of a study as one Parquet data set: a row a cell, partitioned by trace and policy.

    cells/trace=NAME/policy=NAME/cells.parquet        settings, status, reason, measures
    workflows/trace=NAME/policy=NAME/ID.parquet       of each cell, if asked for: a row a workflow
    times.parquet                                     what each cell took: wall and CPU seconds, and where
    sweep.json                                        the scenario, versions, the state of the code

Equal cells give equal bytes under ``cells``, whoever ran them and in whatever order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

import pbkv
from pbkv.study.cell import StudyCell
from pbkv.study.cells import Row
from pbkv.study.measures import COUNTS, MEANS, PERCENTILES, TIMES
from pbkv.traces.temporary import replacing

PARTITIONS = ("trace", "policy")
_SETTINGS: Mapping[str, pa.DataType] = {
    "cell_id": pa.string(),
    "variant": pa.string(),
    "policy_options": pa.string(),
    "profile": pa.string(),
    "gpu_blocks": pa.int64(),
    "gpu_gib": pa.float64(),
    "host_blocks": pa.int64(),
    "host_gib": pa.float64(),
    "host_ratio": pa.float64(),
    "write_mode": pa.string(),
    "concurrency": pa.int64(),
    "seed": pa.int64(),
    "block_size": pa.int64(),
    "settings": pa.string(),
    "trace_digest": pa.string(),
}
_MEASURES: Mapping[str, pa.DataType] = {
    **{name: pa.int64() for name in COUNTS},
    "makespan_s": pa.float64(),
    **{column: pa.float64() for name in MEANS for column in (name, f"{name}_half")},
    **{
        f"{name}_p{percentile}_s{end}": pa.float64()
        for name in TIMES
        for percentile in PERCENTILES
        for end in ("", "_low", "_high")
    },
    "prefetched_bytes": pa.int64(),
    "prefetched_useful_bytes": pa.int64(),
    "records_digest": pa.string(),
}
SCHEMA = pa.schema(
    [
        ("cell", pa.int64()),
        *_SETTINGS.items(),
        ("status", pa.string()),
        ("reason", pa.string()),
        *_MEASURES.items(),
        ("pbkv_version", pa.string()),
        ("code_state", pa.string()),
    ]
)
_TIMES = pa.schema(
    [
        ("cell", pa.int64()),
        ("cell_id", pa.string()),
        ("wall_s", pa.float64()),
        ("cpu_s", pa.float64()),
        ("process", pa.string()),
    ]
)


def table_rows(cells: Sequence[StudyCell], rows: Sequence[Row], state: str) -> list[dict[str, Any]]:
    """The rows of the data set, with the partition columns: settings and what became of each cell."""
    shared = {"pbkv_version": pbkv.__version__, "code_state": state}
    return [
        {"cell": number, **cell.setting_columns(), **row, **shared}
        for number, (cell, row) in enumerate(zip(cells, rows, strict=True))
    ]


def publish(
    out: Path, rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any], *, with_records: bool
) -> None:
    """Write the data set under temporary names and put it in place of an earlier one."""
    with replacing(out / "cells") as folder:
        _write_partitions(folder, rows)
    with replacing(out / "times.parquet") as file:
        _write(file, rows, _TIMES)
    if with_records:
        with replacing(out / "workflows") as folder:
            _copy_records(out / ".work" / "records", folder, rows)
    with replacing(out / "sweep.json") as file:
        file.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def content_digest(out: Path) -> str:
    """A digest of every file of the data set of cells."""
    digest = hashlib.sha256()
    for path in sorted((out / "cells").rglob("*.parquet")):
        digest.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def partition(row: Mapping[str, Any]) -> Path:
    """``trace=…/policy=…``; what a folder cannot be named by is percent-encoded, as readers expect."""
    return Path(*(f"{name}={quote(str(row[name]), safe='+')}" for name in PARTITIONS))


def _write_partitions(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    groups: dict[Path, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(partition(row), []).append(row)
    for name, group in groups.items():
        (folder / name).mkdir(parents=True)
        _write(folder / name / "cells.parquet", group, SCHEMA)


def _write(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    pq.write_table(pa.table(columns, schema=schema), path)


def _copy_records(source: Path, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    folder.mkdir()
    for row in rows:
        file = source / f"{row['cell_id']}.parquet"
        if file.exists():
            (folder / partition(row)).mkdir(parents=True, exist_ok=True)
            table = pq.read_table(file)
            pq.write_table(table.drop_columns(["policy"]), folder / partition(row) / file.name)
