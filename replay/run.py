"""Replays cells on a real engine: each policy, capacity, load and seed, into one run folder.

The same tables as a simulation's, and ``iterations``. Seconds are the machine's: two replays differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pbkv.cache.named import INFINITE, make_policy
from pbkv.predict.checks import check_width
from pbkv.replay.machine import versions
from pbkv.replay.model import page_shape
from pbkv.replay.pool import check_fits
from pbkv.replay.recording import Recording
from pbkv.replay.world import real_world
from pbkv.serve.cell import CellResult, Progress, run_cell
from pbkv.serve.run import run_cells
from pbkv.traces.errors import ConfigError, TraceError

if TYPE_CHECKING:
    from pbkv.replay.settings import ReplaySettings
    from pbkv.serve.settings import Cell
    from pbkv.traces.reader import Trace
    from pbkv.traces.run_folder import RunFolder


def replay(
    traces: Sequence[Trace],
    settings: ReplaySettings,
    model: Any,
    out: Path,
    *,
    force: bool = False,
    command: str = "",
    progress: Progress | None = None,
    record: Path | None = None,
) -> list[CellResult]:
    """Replay every cell of ``settings`` with ``model`` (`load_model`) and write the run folder ``out``.

    ``record``: a file for the trace with the model's hidden states as its context vectors (`Recording`).

    An interrupt keeps the cells that have ended and goes on up. Out of memory: StoppedError, and what was
    written is kept. Raises ConfigError or TraceError for bad input; ``out`` is then not made.
    """
    check_context(traces, model)
    check_possible(settings)
    check_memory(settings, model)
    check_predictor(settings, model)
    if record is not None and record.absolute() == out.absolute():
        raise ConfigError("record-contexts", str(record), "another path than the run folder's")
    recording = None if record is None else Recording(record, traces, settings, force=force)
    keep = None if recording is None else recording.keep

    def run(cell: Cell, folder: RunFolder) -> CellResult:
        with real_world(settings, settings.cache_config(cell), model, folder, keep) as world:
            return run_cell(traces, settings, cell, folder, world, progress)

    about = {"engine": "replay", "versions": versions(), "device": dict(settings.profile.device)}
    results = run_cells(traces, settings, out, run, about, force=force, command=command)
    if recording is not None:
        recording.write()
    return results


def check_context(traces: Sequence[Trace], model: Any) -> None:
    """Raise TraceError for a call that is longer than the model's context."""
    most = model.config.max_position_embeddings
    for trace in traces:
        workflow_id, call_index, num_tokens = trace.longest_call()
        if num_tokens > most:
            where = f"workflow {workflow_id!r}, call {call_index}"
            raise TraceError(
                trace.path, where, f"{num_tokens} tokens", f"at most {most}: the model's context"
            )


def check_possible(settings: ReplaySettings) -> None:
    """Raise ConfigError for what only a simulator has, and for a compiler that torch does not know."""
    for name in settings.policies:
        if name.partition("+")[0] == INFINITE:
            raise ConfigError("policy", name, "a policy for memory that ends (`pbkv simulate` has the bound)")
    backend = settings.compile_backend
    if backend is not None and backend not in torch.compiler.list_backends(exclude_tags=()):
        expected = f"one of {', '.join(torch.compiler.list_backends())}"
        raise ConfigError("compile", backend, expected)


def check_predictor(settings: ReplaySettings, model: Any) -> None:
    """Raise ConfigError if a policy's predictor was trained on vectors of another width than the model's."""
    for name in settings.policies:
        predictor = make_policy(name, 0, settings.policy_options).predictor
        if predictor is not None:
            check_width(predictor, model.config.hidden_size)


def check_memory(settings: ReplaySettings, model: Any) -> None:
    """Raise ConfigError if a cell's pools would not fit, before any cell has run."""
    shape, device = page_shape(model, settings.block_size), next(model.parameters()).device
    sizes = [settings.cache_config(cell) for cell in settings.cells()]
    check_fits(shape, max(size.gpu_blocks for size in sizes), device)
    if most := max(size.host_blocks for size in sizes):
        check_fits(shape, most, torch.device("cpu"))
    if device.type == "cpu":  # both tiers in one memory
        check_fits(shape, max(size.gpu_blocks + size.host_blocks for size in sizes), device)
