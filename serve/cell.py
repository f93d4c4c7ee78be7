"""Runs one cell: a policy, capacities, a load and a seed over the traces, in a world that acts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pbkv.cache.blocks import PathTable
from pbkv.cache.garbage import collector_paused
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import make_policy
from pbkv.cache.plugin import breaches_named
from pbkv.predict.checks import reads_vectors
from pbkv.predict.forecast import needs_context
from pbkv.serve.driver import Driver, LiveWorkflow
from pbkv.serve.engine import Engine
from pbkv.serve.faults import Client
from pbkv.serve.future import known_of
from pbkv.serve.overheads import Overheads
from pbkv.serve.recorder import Recorder
from pbkv.serve.workload import workflows_of

if TYPE_CHECKING:
    from pbkv.cache.policy import Policy
    from pbkv.serve.request import Request
    from pbkv.serve.settings import Cell, RunSettings
    from pbkv.serve.world import World
    from pbkv.traces.reader import Trace
    from pbkv.traces.run_folder import RunFolder

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
    decode_iteration_s: float | None  # mean of those without prefill
    overheads: dict[str, dict[str, float]]  # wall time of decisions, where it was measured
    loop_wall_s: float
    records_wall_s: float
    stopped: str = ""  # why it ended before its time

    def to_dict(self, settings: RunSettings) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__ if name not in ("cell", "prefetch")}
        write_mode, open_loop = settings.write_mode.value, self.cell.concurrency is None
        shared = {"write_mode": write_mode, "open_loop": open_loop, "block_size": settings.block_size}
        return {**asdict(self.cell), **shared, **values, "prefetch": asdict(self.prefetch)}


def run_cell(
    traces: Sequence[Trace],
    settings: RunSettings,
    cell: Cell,
    folder: RunFolder,
    world: World,
    progress: Progress | None = None,
) -> CellResult:
    """Run one cell in ``world`` and add its rows to ``folder``."""
    folder.start_cell(cell.cell, cell.policy, cell.gpu_blocks, cell.host_blocks, cell.seed)
    started_at_s, written_s = perf_counter(), folder.wall_s
    table = PathTable(settings.block_size)
    policy = make_policy(
        cell.policy, cell.seed, settings.policy_options, known_of(traces, settings, cell, table)
    )
    manager = CacheManager(settings.cache_config(cell), table, policy, world.pages)
    overheads = Overheads(manager) if settings.overheads else None
    forecasts = None if policy.predictor is None else world.forecasts(policy.predictor)
    engine = Engine(world, manager, settings.engine_config(), forecasts)
    recorder = Recorder(folder, engine)

    def end_call(request: Request) -> None:
        recorder.end_call(request)
        if world.check is not None:
            world.check(manager)
        if policy.is_plugged_in and recorder.num_calls % _CALLS_PER_CHECK == 0:
            manager.check_invariants()
        if progress is not None and recorder.num_calls % _CALLS_PER_PROGRESS == 0:
            progress(cell, recorder.num_calls)

    def end_workflow(live: LiveWorkflow) -> None:
        recorder.end_workflow(live)
        if world.keep_vectors is not None:
            world.keep_vectors(live.described)

    client = Client(settings.faults, cell.seed, is_live=_wants_vectors(world, policy))
    driver = Driver(world.env, engine, table, settings.unknown_gap_s, client, end_call, end_workflow)
    engine.sample_every_s = settings.sample_every_s
    engine.on_sample = lambda: recorder.sample(len(driver.live))
    stopped = _play(driver, traces, settings, cell, policy)
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
        stopped,
    )


def _wants_vectors(world: World, policy: Policy) -> bool:
    """Whether somebody looks at the vectors that the world's model makes."""
    if world.keep_vectors is not None:
        return True
    return world.shows_vectors and policy.predictor is not None and reads_vectors(policy.predictor)


def _play(driver: Driver, traces: Sequence[Trace], settings: RunSettings, cell: Cell, policy: Policy) -> str:
    """Play the workload; why it stopped before its end, if it did."""
    with_context = policy.predictor is not None and needs_context(policy.predictor)
    workflows = workflows_of(traces, settings, cell, with_context)
    try:
        with collector_paused(), breaches_named(policy, cell.policy):
            if cell.concurrency is None:
                driver.open_loop(workflows)
            else:
                driver.closed_loop(workflows, cell.concurrency)
    except MemoryError as error:  # torch's OutOfMemoryError is turned into one by the replay
        return str(error) or "out of memory"
    return ""


def _prefetch_use(engine: Engine) -> PrefetchUse:
    counts, size = engine.manager.tiers.prefetched, engine.copies.block_bytes
    num_delayed, delayed_s = engine.copies.delayed
    return PrefetchUse(
        started_bytes=counts.started * size,
        useful_bytes=counts.useful * size,
        late_bytes=counts.late * size,
        wasted_bytes=counts.wasted * size,
        cancelled_bytes=counts.cancelled * size,
        num_delayed_loads=num_delayed,
        delayed_loads_s=delayed_s,
    )
