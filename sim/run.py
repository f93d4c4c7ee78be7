"""Runs cells: each policy, capacity, load and seed over the same traces, into one run folder.

A cell is deterministic: the same traces, settings and version give the same rows.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pbkv
from pbkv.serve import cell as serve
from pbkv.serve.cell import CellResult, Progress
from pbkv.serve.workload import check_fit, check_predictors
from pbkv.sim.world import simulated_world
from pbkv.traces.run_folder import RunFolder

if TYPE_CHECKING:
    from pbkv.serve.settings import Cell
    from pbkv.sim.settings import Settings
    from pbkv.traces.reader import Trace


def simulate(
    traces: Sequence[Trace],
    settings: Settings,
    out: Path,
    *,
    force: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> list[CellResult]:
    """Simulate every cell of ``settings`` and write the run folder ``out``.

    An interrupt keeps the cells that have ended and goes on up. Raises ConfigError or TraceError for
    bad input; ``out`` is then not made.
    """
    check_fit(traces, settings)
    check_predictors(traces, settings)
    cells, results = settings.cells(), list[CellResult]()
    with RunFolder(out, tables=settings.tables(), force=force) as folder:
        try:
            for cell in cells:
                results.append(run_cell(traces, settings, cell, folder, progress))
        except KeyboardInterrupt:
            if results:
                kept = {result.cell.cell for result in results}
                folder.publish(_run_json(traces, settings, results, command), kept)
            raise
        folder.publish(_run_json(traces, settings, results, command))
    return results


def run_cell(
    traces: Sequence[Trace],
    settings: Settings,
    cell: Cell,
    folder: RunFolder,
    progress: Progress | None = None,
) -> CellResult:
    """Simulate one cell and add its rows to ``folder``."""
    return serve.run_cell(traces, settings, cell, folder, simulated_world(settings.profile), progress)


def _run_json(
    traces: Sequence[Trace], settings: Settings, results: Sequence[CellResult], command: str
) -> dict[str, Any]:
    num_planned = len(settings.cells())
    return {
        "pbkv_version": pbkv.__version__,
        "versions": _versions(),
        "command": command,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": len(results) == num_planned,
        "num_planned_cells": num_planned,
        "trace": [{"path": str(trace.path), **trace.metadata.to_dict()} for trace in traces],
        "profile": settings.profile.to_dict(),
        "settings": settings.to_dict(),
        "cells": [result.to_dict(settings) for result in results],
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("simpy", "numpy", "pyarrow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
