"""Which workflows are active, what each has touched with which agent, and what is expected of each.

The state behind every policy that follows workflows (paper §2): per node the active workflows that have
touched it and their agents, per active workflow a weight for each agent. Only the nodes of a workflow that
has moved or ended are looked at again, and of these only the candidates of a queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from pbkv.cache.tree import Node
    from pbkv.predict.forecast import Predictor
    from pbkv.traces.schema import Workflow

    Weights = np.ndarray[tuple[int], np.dtype[np.float64]]

_PRUNE_ABOVE = 64  # tags of a node; beyond it those of ended workflows are forgotten now and then


class Expectation:
    """What one active workflow is expected to use again: a weight for each agent."""

    __slots__ = ("candidates", "weights", "worth")

    def __init__(self) -> None:
        self.candidates: dict[int, Node] = {}  # nodes in a queue that it has touched, by serial
        self.weights: dict[int, float] = {}  # by agent bit
        self.worth: dict[int, float] = {}  # by agents, as a set of bits: the sum of their weights

    def take_candidates(self) -> list[Node]:
        """The nodes noted by `Activity.queued`, which are to be noted anew."""
        taken, self.candidates = list(self.candidates.values()), {}
        return taken

    def worth_of(self, agents: int) -> float:
        """The sum of the weights of ``agents``, a set of bits (A_w(c) · weights)."""
        known = self.worth.get(agents)
        if known is None:
            known = self.worth[agents] = sum(w for bit, w in self.weights.items() if agents & bit)
        return known


class Activity:
    """Follows workflows. ``weigh`` turns a forecast into a weight for each of the predictor's agents."""

    def __init__(self, predictor: Predictor | None, weigh: Callable[[np.ndarray], Weights]) -> None:
        self._predictor = predictor
        self._weigh = weigh
        self._active: dict[str, Expectation] = {}
        self._bits: dict[str, int] = {}

    def touched(self, node: Node, workflow_id: str, agent: str) -> None:
        """``agent`` of ``workflow_id`` uses ``node``."""
        bit = self._bits.setdefault(agent, 1 << len(self._bits))
        if workflow_id not in self._active:
            self._active[workflow_id] = Expectation()
        tags = node.tags
        if tags is None:
            tags = node.tags = {}
        if workflow_id in tags:
            tags[workflow_id] |= bit
        else:
            tags[workflow_id] = bit
            node.num_workflows += 1
            if len(tags) > _PRUNE_ABOVE and len(tags) > 2 * len(self._active):
                node.tags = {tag: agents for tag, agents in tags.items() if tag in self._active}

    def moved(self, workflow: Workflow, position: int) -> list[Node]:
        """Call ``position`` has its prompt computed: a new forecast. The candidates it changes."""
        expectation = self._active.get(workflow.workflow_id)
        if expectation is None or self._predictor is None:
            return []
        weights = self._weigh(self._predictor.forecast(workflow, position))
        bits = (self._bits.setdefault(agent, 1 << len(self._bits)) for agent in self._predictor.agents)
        expectation.weights = {bit: float(w) for bit, w in zip(bits, weights, strict=True) if w}
        expectation.worth = {}
        return expectation.take_candidates()

    def ended(self, workflow: Workflow) -> list[Node]:
        """The workflow sends no more calls; what it alone has touched is retired. Candidates it changes."""
        if self._predictor is not None:
            self._predictor.end(workflow)
        expectation = self._active.pop(workflow.workflow_id, None)
        return [] if expectation is None else expectation.take_candidates()

    def is_retired(self, node: Node) -> bool:
        """Whether no active workflow has touched ``node``."""
        return self._active.keys().isdisjoint(node.tags or ())

    def score(self, node: Node) -> float | None:
        """Σ over active workflows of A_w(c) · weights (paper, eq. 2); None if it is retired."""
        active, total = self._active, None
        for tag, agents in (node.tags or {}).items():
            if (expectation := active.get(tag)) is not None:
                total = (total or 0.0) + expectation.worth_of(agents)
        return total

    def queued(self, node: Node) -> None:
        """``node`` is a candidate of a queue from now on."""
        for tag in node.tags or ():
            if tag in self._active:
                self._active[tag].candidates[node.serial] = node
