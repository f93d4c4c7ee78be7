"""Runs cells: each policy, capacity, load and seed over the same traces, into one run folder.

A cell is deterministic: the same traces, settings and version give the same rows.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import simpy

import pbkv
from pbkv.cache.blocks import PathTable
from pbkv.cache.garbage import collector_paused
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import make_policy
from pbkv.cache.plugin import breaches_named
from pbkv.predict.forecast import needs_context
from pbkv.sim.driver import Driver
from pbkv.sim.engine import Engine
from pbkv.sim.faults import Client
from pbkv.sim.future import known_of
from pbkv.sim.overheads import Overheads
from pbkv.sim.recorder import Recorder
from pbkv.sim.workload import check_fit, check_predictors, workflows_of
from pbkv.traces.run_folder import RunFolder

if TYPE_CHECKING:
    from pbkv.sim.request import Request
    from pbkv.sim.settings import Cell, Settings
    from pbkv.traces.reader import Trace

Progress = Callable[["Cell", int], None]  # the cell in progress, and its calls done so far
_CALLS_PER_PROGRESS = 256
_CALLS_PER_CHECK = 256  # of a plugged-in policy's cache


@dataclass(frozen=True, slots=True)
class PrefetchUse:
    """What became of the bytes of a cell's prefetches (`pbkv.cache.prefetch.PrefetchCounts`).

    ``num_delayed_loads`` copies on demand found the link busy with a slice of a prefetch, and waited
    ``delayed_loads_s`` for its end, all together.
    """

    started_bytes: int
    useful_bytes: int
    late_bytes: int
    wasted_bytes: int
    cancelled_bytes: int
    num_delayed_loads: int
    delayed_loads_s: float


@dataclass(frozen=True, slots=True)
class CellResult:
    """A finished cell, for run.json: totals, and the wall time of its loop and of its records."""

    cell: Cell
    num_calls: int
    num_workflows: int
    policy_note: str  # what stands behind the policy's name in tables
    makespan_s: float
    num_iterations: int
    num_pure_decodes: int  # iterations without prefill
    num_preemptions: int
    prefetch: PrefetchUse
    decode_iteration_s: float | None  # simulated, mean of those without prefill
    overheads: dict[str, dict[str, float]]  # wall time of decisions, where it was measured
    loop_wall_s: float
    records_wall_s: float

    def to_dict(self, settings: Settings) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__ if name not in ("cell", "prefetch")}
        write_mode, open_loop = settings.write_mode.value, self.cell.concurrency is None
        shared = {"write_mode": write_mode, "open_loop": open_loop, "block_size": settings.block_size}
        return {**asdict(self.cell), **shared, **values, "prefetch": asdict(self.prefetch)}


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
    folder.start_cell(cell.cell, cell.policy, cell.gpu_blocks, cell.host_blocks, cell.seed)
    started_at_s, written_s = perf_counter(), folder.wall_s
    env, table = simpy.Environment(), PathTable(settings.block_size)
    known = known_of(traces, settings, cell, table)
    policy = make_policy(cell.policy, cell.seed, settings.policy_options, known)
    manager = CacheManager(settings.cache_config(cell), table, policy)
    overheads = Overheads(manager) if settings.overheads else None
    engine = Engine(env, manager, settings.profile, settings.engine_config())
    recorder = Recorder(folder, engine)

    def end_call(request: Request) -> None:
        recorder.end_call(request)
        if policy.is_plugged_in and recorder.num_calls % _CALLS_PER_CHECK == 0:
            manager.check_invariants()
        if progress is not None and recorder.num_calls % _CALLS_PER_PROGRESS == 0:
            progress(cell, recorder.num_calls)

    driver = Driver(
        env,
        engine,
        table,
        settings.unknown_gap_s,
        Client(settings.faults, cell.seed),
        end_call,
        recorder.end_workflow,
    )
    engine.sample_every_s = settings.sample_every_s
    engine.on_sample = lambda: recorder.sample(len(driver.live))
    with_context = policy.predictor is not None and needs_context(policy.predictor)
    workflows = workflows_of(traces, settings, cell, with_context)
    with collector_paused(), breaches_named(policy, cell.policy):
        if cell.concurrency is None:
            driver.open_loop(workflows)
        else:
            driver.closed_loop(workflows, cell.concurrency)
        if policy.is_plugged_in:
            manager.check_invariants()
    recorder.close()
    folder.end_cell()
    records_wall_s = folder.wall_s - written_s
    return CellResult(
        cell,
        recorder.num_calls,
        recorder.num_workflows,
        policy.note(),
        recorder.last_end_s,
        engine.num_iterations,
        engine.num_pure_decodes,
        engine.num_preemptions,
        _prefetch_use(engine),
        engine.decode_iteration_s,
        overheads.to_dict() if overheads else {},
        perf_counter() - started_at_s - records_wall_s,
        records_wall_s,
    )


def _prefetch_use(engine: Engine) -> PrefetchUse:
    counts, link, size = engine.manager.tiers.prefetched, engine.copies.h2d, engine.copies.block_bytes
    return PrefetchUse(
        started_bytes=counts.started * size,
        useful_bytes=counts.useful * size,
        late_bytes=counts.late * size,
        wasted_bytes=counts.wasted * size,
        cancelled_bytes=counts.cancelled * size,
        num_delayed_loads=link.num_delayed,
        delayed_loads_s=link.delayed_s,
    )


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
