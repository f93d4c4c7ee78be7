"""Oldest first: who arrived first is served first, evicted last, and not displaced without need.

Three rules, one idea: where not all live workflows can be served at once, finish what has begun.

Order: requests by the arrival of their workflows. So nobody starves: before a request only those of
workflows that arrived earlier are preferred, and of these there are finitely many.
Eviction: retired entries first (the least shared, then the least recently used); then active ones by the
chance that any of the next K calls of their workflows reads them, told in tenths; where that is alike, those
of the workflow that arrived last, as it will be served last; then the less likely, then the deeper.
Admission: `pbkv.cache.patience`.

Forecasts are Markov's, learnt while serving; who reads on from whom is learnt too. A workflow silent for
thirty mean waits counts as ended until it is heard of again, as an end message may be lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbkv.cache.activity import TimedActivity
from pbkv.cache.follower import NOTHING, Changed, Follower
from pbkv.predict.forecast import survival

if TYPE_CHECKING:
    from pbkv.cache.activity import Activity, Weights
    from pbkv.cache.inheritance import Inheritance
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.scheduling import Waiting
    from pbkv.cache.tree import Node
    from pbkv.predict.forecast import Forecast, Predictor
    from pbkv.traces.schema import Workflow

_TENTHS = 10
_SILENT_WAITS = 30.0  # mean waits
_LEAST_SILENCE_S = 20.0


class Arrivals(Follower):
    """Numbers live workflows in the order in which their first calls came in, from 1."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._num_arrived = 0

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        if workflow.workflow_id not in self._numbers:
            self._num_arrived += 1
            self._numbers[workflow.workflow_id] = self._num_arrived
        return NOTHING

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        self._numbers.pop(workflow.workflow_id, None)
        return NOTHING

    def number(self, workflow_id: str) -> int:
        """Of the workflow's arrival; behind all others if it is not known."""
        return self._numbers.get(workflow_id, self._num_arrived + 1)


class ByArrival:
    """The order of requests: by arrival of their workflows."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._number = arrivals.number

    def key(self, request: Waiting, manager: CacheManager, now_s: float) -> tuple[int, int]:
        return self._number(request.described.workflow_id), request.position


class YoungestLeaves:
    """The order of eviction: retired, unlikely to be read, of the workflow that arrived last."""

    def __init__(self, activity: Activity, arrivals: Arrivals) -> None:
        self.queued = activity.queued
        self._chance, self._number = activity.score, arrivals.number

    def key(self, node: Node) -> tuple[bool, float, float, float, float]:
        if not node.tags:
            return False, node.num_workflows, node.last_access_s, 0.0, 0.0
        chance = self._chance(node)
        youngest_last = -min(map(self._number, node.tags))
        return True, int(min(chance, 1.0) * _TENTHS), youngest_last, chance, -node.end


class AnyRead:
    """A forecast's chance for each agent that any of the next K calls is its."""

    def __call__(self, forecast: Forecast) -> Weights:
        reads = survival(forecast)[:, None] * forecast[:, :-1]
        chances: Weights = 1.0 - (1.0 - reads).prod(axis=0)
        return chances


class SilentActivity(TimedActivity):
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
