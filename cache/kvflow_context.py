"""KVFlow's steps to execution put on an agent's whole context in its workflow, not on its fixed prompt alone.

Not the paper's rule: there whatever lies behind the fixed prompt is worth least. It is here because agents
that come back to their own transcript make that rule LRU wherever fixed prompts are always in use, and to see
how much of KVFlow's loss on such workloads lies in that. What no active workflow has touched goes first, LRU;
then what agents have touched that are the most steps away in their workflow, the minimum over agents and
workflows. Graphs, prefetch and status-aware order as in `kvflow`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pbkv.cache.activity import Activity
from pbkv.cache.follower import NOTHING, Changed
from pbkv.cache.pbkv import DiscountedReuse
from pbkv.predict.step_graph import NO_STEPS, StepGraphs, Steps

if TYPE_CHECKING:
    from pbkv.cache.tree import Node
    from pbkv.traces.schema import Workflow

_NEVER = float("inf")


class ContextSteps(Activity):
    """Activity whose expectation is the number of steps to each agent's next call in its workflow."""

    def __init__(self) -> None:
        super().__init__(None, DiscountedReuse())
        self._graphs = StepGraphs()
        self._steps_of: dict[str, Steps] = {}
        self._nearest: dict[str, dict[int, float]] = {}  # of live workflows: by sets of agents, as asked

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        return self._move(workflow, self._graphs.submitted(workflow, position))

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        steps = self._graphs.call_ended(workflow, position)
        return NOTHING if steps is None else self._move(workflow, steps)

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        self._graphs.ended(workflow)
        self._steps_of.pop(workflow.workflow_id, None)
        self._nearest.pop(workflow.workflow_id, None)
        return super().ended(workflow, now_s)

    def _move(self, workflow: Workflow, steps: Steps) -> Changed:
        name = workflow.workflow_id
        if steps is self._steps_of.get(name, NO_STEPS):
            return NOTHING
        self._steps_of[name] = steps
        self._nearest[name] = {}
        expectation = self._active.get(name)
        return NOTHING if expectation is None else self._changed(expectation)

    # ------------------------------------------------------------------ what is asked

    def steps(self, node: Node) -> float:
        """To the next call of an agent that has touched ``node`` in the same workflow; inf: none comes."""
        return min(
            (self._nearest_of(tag, agents) for tag, agents in (node.tags or {}).items()), default=_NEVER
        )

    def is_next(self, node: Node) -> bool:
        return self.steps(node) <= 1

    def note(self) -> str:
        return self._graphs.note()

    def _nearest_of(self, workflow_id: str, agents: int) -> float:
        nearest = self._nearest.get(workflow_id)
        if nearest is None:
            return _NEVER
        known = nearest.get(agents)
        if known is None:
            steps = self._steps_of.get(workflow_id, NO_STEPS)
            near = (number for agent, number in steps.items() if self._bits.get(agent, 0) & agents)
            known = nearest[agents] = min(near, default=_NEVER)
        return known
