"""Simulates cells: each policy, capacity, load and seed over the same traces, into one run folder.

A cell is deterministic: the same traces, settings and version give the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pbkv.serve.cell import CellResult, Progress, run_cell
from pbkv.serve.run import run_cells
from pbkv.sim.world import simulated_world

if TYPE_CHECKING:
    from pbkv.serve.settings import Cell
    from pbkv.sim.settings import Settings
    from pbkv.traces.reader import Trace
    from pbkv.traces.run_folder import RunFolder


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

    def run(cell: Cell, folder: RunFolder) -> CellResult:
        return run_cell(traces, settings, cell, folder, simulated_world(settings.profile), progress)

    about = {"engine": "simulate"}
    return run_cells(traces, settings, out, run, about, force=force, command=command)
