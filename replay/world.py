"""The real world of a cell: a model on pools of pages, copies between them, and the machine's clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import simpy
import torch

from pbkv.predict.checks import live_graph
from pbkv.replay.copies import RealCopies
from pbkv.replay.forecasts import SideForecasts, Told
from pbkv.replay.memory import memory_errors
from pbkv.replay.model import page_shape
from pbkv.replay.pace import Pace
from pbkv.replay.page_tables import PageTables
from pbkv.replay.pool import Pool
from pbkv.replay.runner import ModelRunner, RunnerConfig
from pbkv.replay.side import side_of
from pbkv.replay.transfers import Transfers
from pbkv.replay.worker import Iteration, ModelWorker
from pbkv.serve.world import World

if TYPE_CHECKING:
    from pbkv.cache.config import CacheConfig
    from pbkv.cache.decisions import Load
    from pbkv.cache.tiers import Tiers
    from pbkv.predict.forecast import Predictor
    from pbkv.replay.settings import ReplaySettings
    from pbkv.traces.run_folder import RunFolder
    from pbkv.traces.schema import Workflow


@contextmanager
def real_world(
    settings: ReplaySettings,
    cache: CacheConfig,
    model: Any,
    folder: RunFolder,
    keep_vectors: Callable[[Workflow], None] | None = None,
) -> Iterator[World]:
    """Pools of the sizes of ``cache`` for ``model``, as long as the context lasts.

    ``keep_vectors`` is called with each workflow at its end, whose calls then have the model's vectors.
    Raises ConfigError if they do not fit into the memory that is free, MemoryError if they do not after all.
    """
    env, pace, device = simpy.Environment(), Pace(), next(model.parameters()).device
    shape = page_shape(model, cache.block_size)
    with memory_errors():
        gpu = Pool(shape, cache.gpu_blocks, device, layout=settings.layout)
        host = _host_pool(gpu, cache.host_blocks)
    tables = PageTables(cache.gpu_blocks, cache.host_blocks)
    transfers = None if host is None else Transfers(gpu, host)
    runner = ModelRunner(model, gpu, RunnerConfig(compile_backend=settings.compile_backend))

    def note(iteration: Iteration) -> None:
        folder.add("iterations", (env.now + iteration.seconds, *astuple(iteration)))

    def copies(tiers: Tiers, on_load_end: Callable[[Load], None]) -> RealCopies:
        return RealCopies(
            env,
            tiers,
            on_load_end,
            tables,
            transfers,
            pace,
            shape.num_bytes,
            is_real_time=settings.real_time,
        )

    def note_forecast(told: Told) -> None:
        request, late_s = told.request, env.now - told.request.first_token_at_s
        about = (env.now, request.workflow.workflow_id, request.position, told.num_calls)
        folder.add("forecasts", (*about, told.seconds, late_s, told.engine_s))

    def forecasts(predictor: Predictor) -> SideForecasts | None:
        graph = None if settings.check else live_graph(predictor)
        if graph is None:
            return None
        beside = SideForecasts(graph, side_of(graph.network, device), note_forecast)
        closing.callback(beside.close)
        worker.forecast_beside(beside, shows=keep_vectors is not None)
        return beside

    worker = ModelWorker(runner, tables, pace, cache.block_size, model.config.vocab_size, note)
    with ExitStack() as closing:
        if transfers is not None and host is not None:
            closing.callback(host.close)
            closing.callback(transfers.close)
        yield World(
            env,
            worker,
            copies,
            tables,
            tables.check if settings.check else None,
            shows_vectors=True,
            keep_vectors=keep_vectors,
            forecasts=forecasts,
        )


def _host_pool(gpu: Pool, num_pages: int) -> Pool | None:
    if not num_pages:
        return None
    is_pinned = gpu.device.type == "cuda"
    return Pool(gpu.shape, num_pages, torch.device("cpu"), layout=gpu.layout, is_pinned=is_pinned)
