"""Runs the cells of a run one after the other, into one run folder with its run.json."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pbkv
from pbkv.serve.workload import check_fit, check_predictors
from pbkv.traces.errors import ConfigError, StoppedError
from pbkv.traces.run_folder import RunFolder

if TYPE_CHECKING:
    from pbkv.serve.cell import CellResult
    from pbkv.serve.settings import Cell, RunSettings
    from pbkv.traces.reader import Trace


def run_cells(
    traces: Sequence[Trace],
    settings: RunSettings,
    out: Path,
    run: Callable[[Cell, RunFolder], CellResult],
    about: Mapping[str, Any],
    *,
    force: bool = False,
    command: str = "",
) -> list[CellResult]:
    """Run every cell of ``settings`` by ``run`` and write the run folder ``out``.

    ``about`` goes into run.json: which engine ran, on what. An interrupt keeps the cells that have ended
    and goes on up. A cell that stops for want of memory ends the run: what it has written is kept, run.json
    says that it is not whole, and StoppedError is raised. Raises ConfigError or TraceError for bad input;
    ``out`` is then not made.
    """
    check_fit(traces, settings)
    check_predictors(traces, settings)
    results: list[CellResult] = []
    with RunFolder(out, tables=settings.tables(), force=force) as folder:

        def publish() -> None:
            kept = {result.cell.cell for result in results}
            folder.publish(_run_json(traces, settings, results, about, command), kept)

        try:
            for cell in settings.cells():
                results.append(run(cell, folder))
                if results[-1].stopped:
                    break
        except KeyboardInterrupt:
            if results:
                publish()
            raise
        except MemoryError as error:  # before a cell has begun: its world found no room
            if not results:
                raise ConfigError("memory", str(error), "room for the first cell") from error
            publish()
            raise StoppedError(out, str(error)) from error
        publish()
    if results[-1].stopped:
        raise StoppedError(out, results[-1].stopped)
    return results


def _run_json(
    traces: Sequence[Trace],
    settings: RunSettings,
    results: Sequence[CellResult],
    about: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    num_planned, num_whole = len(settings.cells()), sum(not result.stopped for result in results)
    return {
        "pbkv_version": pbkv.__version__,
        **about,
        "versions": {**_versions(), **about.get("versions", {})},
        "command": command,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": num_whole == num_planned,
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
