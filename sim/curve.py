"""The cache alone, without a clock: hit ratio by capacity, many caches in one pass over the trace.

A call is looked up, computed and kept at once, so its prompt and its answer (where the trace names
one) are in every cache when the next call comes; time is the call's number. What costs, latencies and
copies would do to the order of calls is `simulate`'s business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Literal

from pbkv.cache.blocks import BlockPath, PathTable
from pbkv.cache.config import CacheConfig
from pbkv.cache.garbage import collector_paused
from pbkv.cache.known import Known
from pbkv.cache.manager import CacheManager
from pbkv.cache.named import ORACLES, capacity_of, make_policy
from pbkv.cache.plugin import breaches_named
from pbkv.serve.future import uses_by_call
from pbkv.traces.errors import ConfigError, InvariantError

if TYPE_CHECKING:
    from pbkv.traces.reader import Trace
    from pbkv.traces.schema import Call, Workflow

CallOrder = Literal["turns", "file"]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One policy at one capacity. ``hit_blocks`` are the leading full blocks found, at most (P − 1) // B."""

    policy: str
    gpu_blocks: int
    hit_blocks: int
    hit_ratio: float  # hit tokens / prompt tokens


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one pass, and what bounds them: ``infinite_hit_blocks`` is a cache without an end.

    ``num_prompt_blocks`` counts the full blocks of all prompts.
    """

    block_size: int
    order: CallOrder
    concurrency: int
    num_calls: int
    num_prompt_tokens: int
    num_prompt_blocks: int
    infinite_hit_blocks: int
    points: tuple[CurvePoint, ...]

    @property
    def infinite_hit_ratio(self) -> float:
        return self.infinite_hit_blocks * self.block_size / max(self.num_prompt_tokens, 1)


def hit_curve(
    trace: Trace,
    policies: Sequence[str],
    gpu_blocks: Sequence[int],
    *,
    block_size: int = 16,
    order: CallOrder = "turns",
    concurrency: int = 48,
    seed: int = 0,
    whole_nodes: bool = False,
    warm_up_calls: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Curve:
    """Hits of each policy at each capacity. The first ``warm_up_calls`` fill the caches uncounted.

    ``order`` "turns": ``concurrency`` slots take turns, one call a turn, workflows in file order; a
    freed slot takes the next workflow in its own next turn. "file": the calls as they stand in the
    file. Of a call larger than a cache its leading blocks are kept. Raises ConfigError for bad options.
    """
    _check(policies, gpu_blocks, concurrency, warm_up_calls)
    table = PathTable(block_size)  # shared: what any cache has kept, an infinite one still has
    num_calls = num_tokens = num_blocks = infinite_hits = 0
    with collector_paused():
        uses = None
        if not set(ORACLES).isdisjoint(policies):
            calls = (call for _, call in _calls(trace.workflows(), order, concurrency))
            uses = uses_by_call(calls, table)
        known = Known(uses, whole_nodes=whole_nodes, block_size=block_size)
        caches = [_Cache(policy, size, table, seed, known) for policy, size in product(policies, gpu_blocks)]
        for now, (workflow, call) in enumerate(_calls(trace.workflows(), order, concurrency)):
            path = table.path(call.segment_ids, call.segment_tokens)
            answer = _answer(table, path, call)
            counts = now >= warm_up_calls
            if counts:
                num_calls += 1
                num_tokens += path.num_tokens
                num_blocks += path.num_blocks
                infinite_hits += min(table.ever_cached_tokens(path, 0), path.num_tokens - 1) // block_size
            for cache in caches:
                hits = cache.serve(path, answer, workflow, call, float(now))
                if counts:
                    cache.num_hits += hits
            if not now % 256:
                for cache in caches:
                    cache.check()
                if progress is not None:
                    progress(now)
    for cache in caches:
        cache.check()
    points = tuple(cache.point(num_tokens) for cache in caches)
    return Curve(block_size, order, concurrency, num_calls, num_tokens, num_blocks, infinite_hits, points)


class _Cache:
    """One policy at one capacity."""

    def __init__(self, policy: str, gpu_blocks: int, table: PathTable, seed: int, known: Known) -> None:
        self.policy = policy
        self.num_hits = 0
        self._gpu_blocks = gpu_blocks
        size, _ = capacity_of(policy, gpu_blocks, 0)
        config = CacheConfig(size, 0, known.block_size, whole_nodes=known.whole_nodes)
        self._policy = make_policy(policy, seed, known=known)
        self._manager = CacheManager(config, table, self._policy)

    def serve(
        self, path: BlockPath, answer: BlockPath | None, workflow: Workflow, call: Call, now_s: float
    ) -> int:
        """Look a prompt up and keep it; its hits in blocks."""
        self._manager.call_submitted(workflow, call.call_index, now_s)
        hits = self._keep(path, answer or path, workflow.workflow_id, call.agent, now_s)
        self._manager.call_computed(workflow, call.call_index, now_s)
        self._manager.call_ended(workflow, call.call_index, now_s)
        if call.call_index == len(workflow.calls) - 1:
            self._manager.workflow_ended(workflow, now_s)
        return hits

    def _keep(self, path: BlockPath, kept: BlockPath, owner: str, agent: str, now_s: float) -> int:
        manager = self._manager
        kept = kept.leading(manager.config.gpu_blocks)
        held = kept.num_blocks * kept.block_size
        admission = manager.admit(path, owner, now_s, held, agent)
        if admission is None:
            raise InvariantError("the cache has no room for a call that is alone in it")
        manager.finish(admission.lease, kept, held, now_s)
        manager.tiers.events.clear()
        return admission.gpu_hit_tokens // path.block_size

    def check(self) -> None:
        """Somebody else's policy is held to the invariants too. Raises PolicyError."""
        if self._policy.is_plugged_in:
            with breaches_named(self._policy, self.policy):
                self._manager.check_invariants()

    def point(self, num_prompt_tokens: int) -> CurvePoint:
        ratio = self.num_hits * self._manager.config.block_size / max(num_prompt_tokens, 1)
        return CurvePoint(self.policy, self._gpu_blocks, self.num_hits, ratio)


def _answer(table: PathTable, path: BlockPath, call: Call) -> BlockPath | None:
    if call.output_id is None or not call.num_output_tokens:
        return None
    return table.extended(path, call.output_id, call.num_output_tokens)


def _calls(
    workflows: Iterator[Workflow], order: CallOrder, concurrency: int
) -> Iterator[tuple[Workflow, Call]]:
    if order == "turns":
        yield from _in_turns(workflows, concurrency)
    else:
        for workflow in workflows:
            yield from _owned(workflow)


def _in_turns(workflows: Iterator[Workflow], concurrency: int) -> Iterator[tuple[Workflow, Call]]:
    slots: deque[Iterator[tuple[Workflow, Call]]] = deque()
    for workflow in islice(workflows, concurrency):  # the first round
        slots.append(_owned(workflow))
        yield next(slots[-1])
    while slots:
        slot = slots.popleft()
        turn = next(slot, None)
        if turn is None and (following := next(workflows, None)) is not None:
            slot = _owned(following)
            turn = next(slot, None)
        if turn is not None:
            yield turn
            slots.append(slot)


def _owned(workflow: Workflow) -> Iterator[tuple[Workflow, Call]]:
    for call in workflow.calls:
        yield workflow, call


def _check(policies: Sequence[str], gpu_blocks: Sequence[int], concurrency: int, warm_up_calls: int) -> None:
    for size in gpu_blocks:
        if size < 1:
            raise ConfigError("gpu_blocks", size, "a number ≥ 1")
    for name, values in (("policies", policies), ("gpu_blocks", gpu_blocks)):
        if len(set(values)) < len(values):
            raise ConfigError(name, list(values), "each value once")
    if not policies or not gpu_blocks:
        raise ConfigError("policy and gpu_blocks", "nothing", "at least one of each")
    if concurrency < 1:
        raise ConfigError("concurrency", concurrency, "a number ≥ 1")
    if warm_up_calls < 0:
        raise ConfigError("warm_up_calls", warm_up_calls, "a number ≥ 0")
