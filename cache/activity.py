"""Which workflows are active, what each has touched with which agent, and what is expected of each.

The state behind every policy that follows workflows (paper §2): per node the active workflows that have
touched it and their agents, per active workflow a weight for each agent. Only the nodes of a workflow
that has moved or ended are looked at again, and of these only the candidates of a queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from pbkv.cache.follower import NOTHING, Changed, Follower
from pbkv.cache.inheritance import Inheritance, NoInheritance
from pbkv.predict.live import is_under_way

if TYPE_CHECKING:
    import numpy as np

    from pbkv.cache.blocks import BlockPath
    from pbkv.cache.decisions import Lease
    from pbkv.cache.tree import Node
    from pbkv.predict.forecast import Forecast, Predictor
    from pbkv.traces.schema import Workflow

    Weights = np.ndarray[tuple[int], np.dtype[np.float64]]

_WeightByBit = dict[int, float]
_SUMMED_FROM = 8  # tags: from so many on a node's sums are kept, and changed by the workflow that moves
_UNIT = 2.0**-40  # of the sums that are kept: whole numbers, so that no order of changes leaves a trace


class _Share(NamedTuple):
    """What one workflow adds to a node's sums, in units."""

    node: Node
    score: int
    value: int


class Expectation:
    """What one active workflow is expected to use again: a weight for each agent, and for the next call."""

    __slots__ = ("_next_worth", "_worth", "candidates", "next_weights", "nodes", "paths", "shares", "weights")

    def __init__(self) -> None:
        self.nodes: list[Node] = []  # that it has touched
        self.candidates: dict[int, Node] = {}  # those of them in a queue, by serial
        self.paths: dict[int, BlockPath] = {}  # of each agent's last call, by agent bit
        self.shares: dict[int, _Share] = {}  # in the sums that are kept, by the node's serial
        self.expect({}, {})

    def expect(self, weights: _WeightByBit, next_weights: _WeightByBit) -> None:
        """Weights over the horizon, and for the next call alone, by agent bit."""
        self.weights, self.next_weights = weights, next_weights
        self._worth: dict[int, float] = {}
        self._next_worth: dict[int, float] = {}

    def take_candidates(self) -> list[Node]:
        """The nodes noted by `Activity.queued`, which are to be noted anew."""
        taken, self.candidates = list(self.candidates.values()), {}
        return taken

    def worth_of(self, agents: int) -> float:
        """The sum of the weights of ``agents``, a set of bits (A_w(c) · weights)."""
        known = self._worth.get(agents)
        if known is None:
            known = self._worth[agents] = sum(w for bit, w in self.weights.items() if agents & bit)
        return known

    def next_worth_of(self, agents: int) -> float:
        """The same for the next call alone (A_w(c) · P_w, eq. 1)."""
        known = self._next_worth.get(agents)
        if known is None:
            known = self._next_worth[agents] = sum(w for bit, w in self.next_weights.items() if agents & bit)
        return known


class Activity(Follower):
    """Follows workflows. ``weigh`` turns a forecast into a weight for each of the predictor's agents.

    Among a node's tags are those of active workflows alone; whoever has tagged a node has tagged all
    above it. What many workflows share is summed once and then changed by the one that moves, in whole
    units of 2⁻⁴⁰; inheritance learnt since holds there from each workflow's next move on.
    """

    def __init__(
        self,
        predictor: Predictor | None,
        weigh: Callable[[Forecast], Weights],
        inheritance: Inheritance | None = None,
    ) -> None:
        self._predictor = predictor
        self._weigh = weigh
        self._inheritance = inheritance or NoInheritance()
        self._active: dict[str, Expectation] = {}
        self._bits: dict[str, int] = {}
        self._sums: dict[int, list[int]] = {}  # score and value of nodes with many tags, by serial

    # ------------------------------------------------------------------ what happens

    def touched(self, node: Node, lease: Lease) -> None:
        bit = self._bits.get(lease.agent) or self._bits.setdefault(lease.agent, 1 << len(self._bits))
        workflow_id = lease.owner
        expectation = self._active.get(workflow_id) or self._activate(workflow_id)
        expectation.paths[bit] = lease.path
        at = node
        while at.parent is not None:
            tags = at.tags
            if tags is None:
                tags = at.tags = {}
            agents = tags.get(workflow_id)
            if agents is None:
                tags[workflow_id] = bit
                at.num_workflows += 1
                expectation.nodes.append(at)
            elif agents & bit:
                return
            else:
                tags[workflow_id] = agents | bit
            if at.serial in self._sums:
                self._share(at, workflow_id, expectation)
            elif len(tags) >= _SUMMED_FROM:
                self._begin_sums(at)
            at = at.parent

    def cut(self, upper: Node, lower: Node) -> Changed:
        if lower.serial in self._sums:
            self._begin_sums(upper)
        return NOTHING

    def removed(self, node: Node) -> None:
        self._sums.pop(node.serial, None)

    def computed(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        self._called(workflow, position)
        if self._predictor is None or is_under_way(workflow, position):
            return NOTHING
        return self._expect(workflow.workflow_id, self._predictor.forecast(workflow, position))

    def foreseen(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        if self._predictor is None:
            return NOTHING
        return self._expect(workflow.workflow_id, self._predictor.forecast(workflow, position))

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        if self._predictor is not None:
            self._predictor.end(workflow)
        return self._retire(workflow.workflow_id)

    def _called(self, workflow: Workflow, position: int) -> Expectation:
        """The workflow is active, and call ``position`` says who inherits from whom."""
        expectation = self._activate(workflow.workflow_id)
        self._inheritance.learn(expectation.paths, self._bits.get(workflow.calls[position].agent, 0))
        return expectation

    def _activate(self, workflow_id: str) -> Expectation:
        expectation = self._active.get(workflow_id)
        if expectation is None:
            expectation = self._active[workflow_id] = Expectation()
        return expectation

    def _expect(self, workflow_id: str, forecast: Forecast, agents: Iterable[str] | None = None) -> Changed:
        """Expect what ``forecast`` says from now on, and not what the workflow's last one said.

        Nothing of a workflow that is not active: it may have ended before its forecast came. ``agents``: of
        the forecast [default: the predictor's, now].
        """
        expectation = self._active.get(workflow_id)
        if expectation is None or self._predictor is None:
            return NOTHING
        agents = self._predictor.agents if agents is None else agents
        bits = [
            self._bits.get(agent) or self._bits.setdefault(agent, 1 << len(self._bits)) for agent in agents
        ]
        weights = zip(bits, self._weigh(forecast).tolist(), strict=True)
        following = zip(bits, forecast[0].tolist(), strict=False)  # END has no bit
        expectation.expect({b: w for b, w in weights if w}, {b: p for b, p in following if p})
        for share in list(expectation.shares.values()):
            self._share(share.node, workflow_id, expectation)
        return self._changed(expectation)

    def _retire(self, workflow_id: str) -> Changed:
        """What the workflow alone has touched is retired."""
        expectation = self._active.pop(workflow_id, None)
        if expectation is None:
            return NOTHING
        changed: list[Node] = []
        for node in expectation.nodes:
            at: Node | None = node
            while at is not None and at.tags and at.tags.pop(workflow_id, None) is not None:
                changed.append(at)
                at = at.parent  # what was cut off above a node has its tags, and is in no list
        for serial, share in expectation.shares.items():
            self._change_sums(serial, -share.score, -share.value)
        return changed

    def _changed(self, expectation: Expectation) -> Changed:
        changed = expectation.take_candidates()
        changed += [share.node for share in expectation.shares.values()]
        return changed

    # ------------------------------------------------------------------ sums over many workflows

    def _begin_sums(self, node: Node) -> None:
        self._sums[node.serial] = [0, 0]
        for tag in node.tags or ():
            self._active[tag].shares.pop(node.serial, None)
            self._share(node, tag, self._active[tag])

    def _share(self, node: Node, workflow_id: str, expectation: Expectation) -> None:
        """Let the sums of ``node`` hold what is expected of the workflow now."""
        agents = self._inheritance.readers((node.tags or {}).get(workflow_id, 0))
        score = round(expectation.worth_of(agents) / _UNIT)
        value = round(expectation.next_worth_of(agents) / _UNIT)
        before = expectation.shares.get(node.serial)
        known_score, known_value = (0, 0) if before is None else (before.score, before.value)
        if self._change_sums(node.serial, score - known_score, value - known_value):
            expectation.shares[node.serial] = _Share(node, score, value)
        elif before is not None:
            del expectation.shares[node.serial]  # the node is gone

    def _change_sums(self, serial: int, score: int, value: int) -> bool:
        """Whether there are such sums."""
        sums = self._sums.get(serial)
        if sums is not None:
            sums[0] += score
            sums[1] += value
        return sums is not None

    # ------------------------------------------------------------------ what is asked

    def score(self, node: Node) -> float:
        """Σ over active workflows of A_w(c) · weights (paper, eq. 2)."""
        tags = node.tags or {}
        if len(tags) >= _SUMMED_FROM:
            return self._sums[node.serial][0] * _UNIT
        total, active, readers = 0.0, self._active, self._inheritance.readers
        for tag, agents in tags.items():
            total += active[tag].worth_of(readers(agents))
        return total

    def value(self, node: Node) -> float:
        """Σ over active workflows of A_w(c) · P_w, one step ahead (paper, eq. 1)."""
        tags = node.tags or {}
        if len(tags) >= _SUMMED_FROM:
            return self._sums[node.serial][1] * _UNIT
        total, active, readers = 0.0, self._active, self._inheritance.readers
        for tag, agents in tags.items():
            total += active[tag].next_worth_of(readers(agents))
        return total

    def queued(self, node: Node) -> None:
        """``node`` is a candidate of a queue from now on; those with sums are looked at in any case."""
        if node.serial in self._sums:
            return
        for tag in node.tags or ():
            self._active[tag].candidates[node.serial] = node


class TimedActivity(Activity):
    """Activity in a world where messages are late or lost.

    A workflow of which nothing has been heard for ``idle_timeout_s`` is retired as if it had ended (an end
    message may be lost: paper §4.2 does not say what then). If it is heard of again, what it then uses is
    active anew, as if another workflow had come; the rest of what it made stays retired. A forecast is
    known ``forecast_delay_s`` after its prompt was computed. Both are due before whatever happens next.
    """

    def __init__(
        self,
        predictor: Predictor | None,
        weigh: Callable[[Forecast], Weights],
        inheritance: Inheritance | None = None,
        *,
        idle_timeout_s: float = float("inf"),
        forecast_delay_s: float = 0.0,
    ) -> None:
        super().__init__(predictor, weigh, inheritance)
        self._idle_timeout_s = idle_timeout_s
        self._forecast_delay_s = forecast_delay_s
        self._last_seen_s: dict[str, float] = {}  # of workflows without a call in progress, oldest first
        self._num_calls: dict[str, int] = {}  # in progress
        self._late: deque[tuple[float, str, Forecast, list[str]]] = deque()

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        changed, name = self.passed(now_s), workflow.workflow_id
        self._num_calls[name] = self._num_calls.get(name, 0) + 1
        self._last_seen_s.pop(name, None)
        return changed

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        changed, name = self.passed(now_s), workflow.workflow_id
        self._num_calls[name] -= 1
        if not self._num_calls[name]:
            del self._num_calls[name]
            self._last_seen_s[name] = now_s
        return changed

    def computed(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        changed = self.passed(now_s)
        if not self._forecast_delay_s or self._predictor is None:
            return [*changed, *super().computed(workflow, position, now_s)]
        self._called(workflow, position)
        if not is_under_way(workflow, position):
            self._delay(self._predictor, workflow, position, now_s)
        return changed

    def foreseen(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        changed = self.passed(now_s)
        if not self._forecast_delay_s or self._predictor is None:
            return [*changed, *super().foreseen(workflow, position, now_s)]
        self._delay(self._predictor, workflow, position, now_s)
        return changed

    def _delay(self, predictor: Predictor, workflow: Workflow, position: int, now_s: float) -> None:
        forecast, agents = predictor.forecast(workflow, position), list(predictor.agents)
        self._late.append((now_s + self._forecast_delay_s, workflow.workflow_id, forecast, agents))

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        changed = self.passed(now_s)
        self._last_seen_s.pop(workflow.workflow_id, None)
        return [*changed, *super().ended(workflow, now_s)]

    def passed(self, now_s: float) -> Changed:
        changed: list[Node] = []
        while self._late and self._late[0][0] <= now_s:
            _, name, forecast, agents = self._late.popleft()
            changed += self._expect(name, forecast, agents)
        while self._last_seen_s:
            name, last_s = next(iter(self._last_seen_s.items()))
            if last_s + self._idle_timeout_s > now_s:
                break
            del self._last_seen_s[name]
            changed += self._retire(name)
        return changed

    def next_due_s(self) -> float:
        forecast_s = self._late[0][0] if self._late else float("inf")
        silent_s = next(iter(self._last_seen_s.values()), float("inf")) + self._idle_timeout_s
        return min(forecast_s, silent_s)
