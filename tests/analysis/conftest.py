"""Builds small run folders from the record schemas, as `simulate` would write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pbkv.traces.records import CALLS, OCCUPANCY, TABLES, WORKFLOWS

Row = dict[str, Any]
WriteRun = Callable[..., Path]
SETTING: Row = {
    "policy": "lru",
    "gpu_blocks": 512,
    "host_blocks": 1024,
    "write_mode": "write-through",
    "concurrency": 8,
    "open_loop": False,
    "seed": 0,
    "block_size": 16,
}
_CLASSES = ("gpu_hit", "host_hit", "loading", "evicted", "partial", "cold")


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a run whose cells have the given settings and random records; returns its folder."""

    def write(cells: Sequence[Mapping[str, Any]], name: str = "run", **options: Any) -> Path:
        return write_random_run(tmp_path / name, cells, **options)

    return write


def write_random_run(
    folder: Path,
    cells: Sequence[Mapping[str, Any]],
    *,
    num_workflows: int = 12,
    edit: Callable[[dict[str, list[Row]]], object] | None = None,
    rows_per_group: int = 7,
) -> Path:
    """Random records of each cell; ``edit`` may change the tables' rows before they are written."""
    entries = [{**SETTING, **cell, "cell": number} for number, cell in enumerate(cells)]
    tables: dict[str, list[Row]] = {"calls": [], "workflows": [], "occupancy": []}
    for entry in entries:
        _random_cell(entry, num_workflows, tables)
    if edit is not None:
        edit(tables)
    write_tables(folder, entries, tables, rows_per_group)
    return folder


def write_tables(
    folder: Path, entries: Sequence[Row], tables: Mapping[str, list[Row]], rows_per_group: int
) -> None:
    folder.mkdir()
    for name, rows in tables.items():
        table = pa.Table.from_pylist(rows, schema=TABLES[name])
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=rows_per_group)
    config = {"pbkv_version": "0.1.0", "complete": True, "cells": entries}
    (folder / "run.json").write_text(json.dumps(config))


def _random_cell(entry: Row, num_workflows: int, tables: dict[str, list[Row]]) -> None:
    rng = np.random.default_rng([entry["cell"], 7])
    identity = {name: entry[name] for name in ("cell", "policy", "gpu_blocks", "host_blocks", "seed")}
    for index in range(num_workflows):
        released = float(rng.uniform(0, 50))
        workflow = {**identity, "workflow_id": f"w{index}", "app": "hover", "released_at_s": released}
        calls = _random_calls(rng, workflow, int(rng.integers(1, 6)))
        tables["calls"] += [{name: call.get(name) for name in CALLS.names} for call in calls]
        workflow |= {"ended_at_s": calls[-1]["ended_at_s"], "num_calls": len(calls)}
        tables["workflows"].append({name: workflow[name] for name in WORKFLOWS.names})
    tables["occupancy"] += _random_occupancy(rng, identity)


def _random_calls(rng: np.random.Generator, workflow: Row, num_calls: int) -> list[Row]:
    calls, now = [], workflow["released_at_s"]
    for index in range(num_calls):
        waits = rng.exponential([2.0, 1.0, 4.0])
        tokens = dict(zip(_CLASSES, rng.integers(0, 900, len(_CLASSES)).tolist(), strict=True))
        calls.append(
            {
                **workflow,
                "call_index": index,
                "agent": f"a{index % 3}",
                "submitted_at_s": now,
                "admitted_at_s": now + waits[0],
                "first_token_at_s": now + waits[0] + waits[1],
                "ended_at_s": now + float(waits.sum()),
                "load_wait_s": 0.0,
                "num_prompt_tokens": sum(tokens.values()),
                "num_output_tokens": int(rng.integers(1, 40)),
                **{f"num_{name}_tokens": count for name, count in tokens.items()},
                "num_preemptions": 0,
                "num_recomputed_tokens": 0,
            }
        )
        now = calls[-1]["ended_at_s"] + float(rng.exponential(1.0))
    return calls


def _random_occupancy(rng: np.random.Generator, identity: Row) -> list[Row]:
    rows, hits, seen = [], 0, 0
    for step in range(50):
        new = int(rng.integers(500, 2000))
        hits, seen = hits + int(new * rng.uniform(0, 1)), seen + new
        used = min(identity["gpu_blocks"], 30 * step)
        row = {**dict.fromkeys(OCCUPANCY.names, 0), **identity, "at_s": 2.0 * step, "gpu_used_blocks": used}
        rows.append(row | {"num_hit_tokens": hits, "num_seen_prompt_tokens": seen, "host_used_blocks": used})
    return rows
