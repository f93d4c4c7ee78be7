"""Warm first: who has its context in the cache is served first, and keeps it as long as it will be read.

Three rules, one idea: a context that is computed twice delays everybody.

Order: a request's turn comes at

    arrival of its workflow + calls in the engine · seconds of its misses,

the smallest first. A second spent on computing what is not cached is a second for each call that is in
the engine, and waits for as long; where nothing is missing the workflows go as they came. What is added
does not grow with the wait, so nobody starves.
Eviction: retired entries first (the least shared, then the least recently used); then active ones by the
chance that any of the next K calls of their workflows reads them. Agents read what their last calls read
(`pbkv.cache.last_calls`), and what they inherit.
Admission: `pbkv.cache.patience`.

Forecasts are Markov's, learnt while serving; who reads on from whom is learnt too. A workflow silent for
thirty mean waits counts as ended until it is heard of again, as an end message may be lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbkv.cache.follower import NOTHING, Changed, Follower
from pbkv.cache.last_calls import LastCallActivity
from pbkv.predict.forecast import survival

if TYPE_CHECKING:
    from pbkv.cache.activity import Activity, Weights
    from pbkv.cache.arrivals import Arrivals
    from pbkv.cache.inheritance import Inheritance
    from pbkv.cache.known import Known
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.scheduling import Waiting
    from pbkv.cache.tree import Node
    from pbkv.predict.forecast import Forecast, Predictor
    from pbkv.traces.schema import Workflow

_SILENT_WAITS = 30.0  # mean waits
_LEAST_SILENCE_S = 20.0
_LOOKED_AGAIN = 0.25  # a request is looked up again when it has waited this much longer …
_LEAST_WAIT_S = 0.5  # … and no sooner than this


class WarmFirst(Follower):
    """The order of requests. What is missing of one is looked up again as its wait grows, not each time."""

    def __init__(self, arrivals: Arrivals, known: Known) -> None:
        self._arrivals, self._costs, self._block_size = arrivals, known.costs, known.block_size
        self._missing: dict[tuple[str, int], tuple[float, float]] = {}  # until when, and seconds

    def key(self, request: Waiting, manager: CacheManager, now_s: float) -> tuple[float, int]:
        workflow_id = request.described.workflow_id
        call = workflow_id, request.position
        until_s, miss_s = self._missing.get(call, (-1.0, 0.0))
        if now_s >= until_s:
            miss_s = self._miss_s(request, manager)
            waited_s = now_s - request.submitted_at_s
            self._missing[call] = now_s + max(_LEAST_WAIT_S, _LOOKED_AGAIN * waited_s), miss_s
        arrived_s = self._arrivals.arrived_s(workflow_id, request.submitted_at_s)
        return arrived_s + self._arrivals.num_calls * miss_s, request.position

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        self._missing.pop((workflow.workflow_id, position), None)
        return NOTHING

    def _miss_s(self, request: Waiting, manager: CacheManager) -> float:
        found = manager.cached_blocks(request.path) * self._block_size
        return self._costs.prefill_s(found, request.path.num_tokens - found)


class LikelyLast:
    """The order of eviction: retired, then the less likely to be read, then the least recently used."""

    def __init__(self, activity: Activity) -> None:
        self.queued = activity.queued
        self._chance = activity.score

    def key(self, node: Node) -> tuple[bool, float, float]:
        if not node.tags:
            return False, node.num_workflows, node.last_access_s
        return True, self._chance(node), node.last_access_s


class AnyRead:
    """A forecast's chance for each agent that any of the next K calls is its."""

    def __call__(self, forecast: Forecast) -> Weights:
        reads = survival(forecast)[:, None] * forecast[:, :-1]
        chances: Weights = 1.0 - (1.0 - reads).prod(axis=0)
        return chances


class SilentActivity(LastCallActivity):
    """A workflow is retired when it has been silent for thirty mean waits, and for 20 s at least."""

    def __init__(self, predictor: Predictor | None, inheritance: Inheritance, idle_timeout_s: float) -> None:
        super().__init__(predictor, AnyRead(), inheritance, idle_timeout_s=idle_timeout_s)
        self._most_s = idle_timeout_s
        self._num_waits, self._waits_s = 0, 0.0

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        since_s = self._last_seen_s.get(workflow.workflow_id)
        if since_s is not None:
            self._num_waits += 1
            self._waits_s += now_s - since_s
            silence_s = max(_SILENT_WAITS * self._waits_s / self._num_waits, _LEAST_SILENCE_S)
            self._idle_timeout_s = min(silence_s, self._most_s)
        return super().submitted(workflow, position, now_s)
