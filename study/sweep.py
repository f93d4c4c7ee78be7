"""`pbkv sweep`: runs the cells of a scenario that have not been run, and publishes the data set."""

from __future__ import annotations

import fcntl
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pbkv
from pbkv.study.cell import FAILED, StudyCell
from pbkv.study.cells import Kept, Row, clear_scratch, code_state, run_jobs
from pbkv.study.dataset import publish, table_rows
from pbkv.study.prepare import prepare
from pbkv.study.scenario import Scenario
from pbkv.study.workers import Keyed, Workers
from pbkv.traces.errors import ConfigError

Progress = Callable[[int, int], None]  # cells done, of how many


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The data set's rows in order, and how many of the cells an earlier call had run.

    ``num_outdated`` of them had been run by other code, and were run again.
    """

    rows: Sequence[Mapping[str, Any]]
    num_taken_up: int
    num_outdated: int

    @property
    def failures(self) -> list[Mapping[str, Any]]:
        return [row for row in self.rows if row["status"] == FAILED]


def sweep(
    scenario: Scenario,
    out: Path,
    workers: Workers,
    progress: Progress,
    *,
    keep_records: bool = False,
    retry_failed: bool = False,
    command: str = "",
) -> SweepResult:
    """Run what is missing in folder ``out`` and publish all cells of ``scenario`` there.

    Raises ConfigError if ``out`` is taken by something else or by a sweep that runs, TraceError for a trace
    that cannot be read; what fails in a cell alone becomes a row.
    """
    with study_folder(out) as work:
        records = work / "records"
        records.mkdir(exist_ok=True)
        traces = [prepare(source, work) for source in scenario.traces]
        where = str(records.absolute()) if keep_records else ""
        cells = scenario.cells(traces, str(work.absolute()), where)
        state = code_state()
        kept = Kept(work / "cells.jsonl", state)
        _forget(kept, cells, records if keep_records else None, retry_failed)
        num_taken_up, num_outdated = sum(map(kept.has, cells)), sum(map(kept.is_outdated, cells))
        run_cells(cells, kept, workers, progress)
        rows = table_rows(cells, kept.of(cells), state)
        publish(out, rows, _config(scenario, state, command), with_records=keep_records)
        for trace in traces:
            if Path(trace.path).parent == work.absolute():
                Path(trace.path).unlink()
    return SweepResult(rows, num_taken_up, num_outdated)


def run_cells(cells: Sequence[StudyCell], kept: Kept, workers: Workers, progress: Progress) -> None:
    """Run the cells that ``kept`` lacks; a cell whose process dies is a failure with that reason."""

    def when_lost(job: Keyed, reason: str) -> Row:
        assert isinstance(job, StudyCell)
        return job.failed(reason)

    for _ in run_jobs(cells, kept, workers, lambda done: progress(done, len(cells)), when_lost):
        pass


@contextmanager
def study_folder(out: Path) -> Iterator[Path]:
    """The work folder of the study in ``out``, locked: one process at a time, and no lock after a kill."""
    work = out / ".work"
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not work.is_dir())):
        raise ConfigError("output", str(out), "a folder that is empty, new, or of an earlier call")
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError("output", str(out), "a folder that no other call is working in") from None
        clear_scratch(work)
        yield work


def _forget(kept: Kept, cells: Sequence[StudyCell], records: Path | None, retry_failed: bool) -> None:
    """Cells that have to be run again: failures if asked to, and those without the records wanted now."""
    for cell in cells:
        if not kept.has(cell):
            continue
        failed = kept.of([cell])[0]["status"] == FAILED
        without = records is not None and not failed and not (records / f"{cell.cell_id}.parquet").exists()
        if (failed and retry_failed) or without:
            kept.forget(cell)


def _config(scenario: Scenario, state: str, command: str) -> dict[str, Any]:
    return {
        "pbkv_version": pbkv.__version__,
        "code_state": state,
        "python": platform.python_version(),
        "command": command,
        "scenario": scenario.text,
        "profiles": {name: profile.to_dict() for name, profile in scenario.profiles},
    }
