"""When each live workflow came, and how many of their calls are in the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbkv.cache.follower import NOTHING, Changed, Follower

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow


class Arrivals(Follower):
    """Numbers live workflows in the order in which their first calls came in, from 1, and dates them."""

    def __init__(self) -> None:
        self._arrived: dict[str, tuple[int, float]] = {}
        self._num_arrived = 0
        self.num_calls = 0  # submitted, their answers not out

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        self.num_calls += 1
        if workflow.workflow_id not in self._arrived:
            self._num_arrived += 1
            self._arrived[workflow.workflow_id] = self._num_arrived, now_s
        return NOTHING

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        self.num_calls -= 1
        return NOTHING

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        self._arrived.pop(workflow.workflow_id, None)
        return NOTHING

    def number(self, workflow_id: str) -> int:
        """Of the workflow's arrival; behind all others if it is not known."""
        return self._arrived.get(workflow_id, (self._num_arrived + 1, 0.0))[0]

    def arrived_s(self, workflow_id: str, now_s: float) -> float:
        """When it came; now if it is not known."""
        return self._arrived.get(workflow_id, (0, now_s))[1]
