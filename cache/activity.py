"""Which workflows are active, what each has touched with which agent, and what is expected of each.

The state behind every policy that follows workflows (paper §2): per node the active workflows that have
touched it and their agents, per active workflow a weight for each agent. Only the nodes of a workflow
that has moved or ended are looked at again, and of these only the candidates of a queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

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


class _Sums:
    """Score and value of a node with many tags, in units: a share a workflow, and who is to be asked anew."""

    __slots__ = ("behind", "node", "score", "shares", "value")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.score = self.value = 0
        self.shares: dict[str, tuple[int, int]] = {}
        self.behind: set[str] = set()  # workflows whose share may be another one by now

    def change(self, workflow_id: str, score: int, value: int) -> None:
        known_score, known_value = self.shares.get(workflow_id, (0, 0))
        self.score += score - known_score
        self.value += value - known_value
        self.shares[workflow_id] = score, value


class Expectation:
    """What one active workflow is expected to use again: a weight for each agent, and for the next call."""

    __slots__ = (
        "_readers",
        "candidates",
        "ends",
        "next_weights",
        "next_worth",
        "nodes",
        "paths",
        "summed",
        "weights",
        "worth",
    )

    def __init__(self, readers: Callable[[int], int]) -> None:
        self._readers = readers
        self.nodes: list[Node] = []  # that it has touched
        self.candidates: dict[int, Node] = {}  # those of them in a queue, by serial
        self.paths: dict[int, BlockPath] = {}  # of each agent's last call, by agent bit
        self.ends: dict[int, Node] = {}  # likewise, the deepest nodes (`LastCallActivity`)
        self.summed: dict[int, _Sums] = {}  # that it has a share in, by the node's serial
        self.expect({}, {})

    def expect(self, weights: _WeightByBit, next_weights: _WeightByBit) -> None:
        """Weights over the horizon, and for the next call alone, by agent bit."""
        self.weights, self.next_weights = weights, next_weights
        self.forget()

    def forget(self) -> None:
        """Who reads from whom is seen otherwise from now on."""
        self.worth: dict[int, float] = {}  # by sets of agents, as far as asked
        self.next_worth: dict[int, float] = {}

    def take_candidates(self) -> list[Node]:
        """The nodes noted by `Activity.queued`, which are to be noted anew."""
        taken, self.candidates = list(self.candidates.values()), {}
        return taken

    def worth_of(self, agents: int) -> float:
        """The weights of those who read what ``agents`` (bits) have touched, summed (A_w(c) · weights)."""
        known = self.worth.get(agents)
        if known is None:
            readers = self._readers(agents)
            known = self.worth[agents] = sum(w for bit, w in self.weights.items() if readers & bit)
        return known

    def next_worth_of(self, agents: int) -> float:
        """The same for the next call alone (A_w(c) · P_w, eq. 1)."""
        known = self.next_worth.get(agents)
        if known is None:
            readers = self._readers(agents)
            known = self.next_worth[agents] = sum(w for bit, w in self.next_weights.items() if readers & bit)
        return known


class Activity(Follower):
    """Follows workflows. ``weigh`` turns a forecast into a weight for each of the predictor's agents.

    Among a node's tags are those of active workflows alone; whoever has tagged a node has tagged all
    above it. What many workflows share is summed once; a workflow that moves is marked there, and its share
    is changed when the sum is asked for, in whole units of 2⁻⁴⁰. Inheritance learnt since holds there from
    each workflow's next move on.
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
        self._bit_by_column: list[int] = []  # of the predictor's agents
        self._sums: dict[int, _Sums] = {}  # of nodes with many tags, by serial
        self._summed_candidates: dict[int, Node] = {}  # those of them in a queue, by serial

    # ------------------------------------------------------------------ what happens

    def touched(self, node: Node, lease: Lease) -> None:
        bit = self._bit_of(lease.agent)
        workflow_id = lease.owner
        expectation = self._activate(workflow_id)
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
                self._add_to_sums(self._sums[at.serial], workflow_id)
            elif len(tags) >= _SUMMED_FROM:
                self._begin_sums(at)
            at = at.parent

    def cut(self, upper: Node, lower: Node) -> Changed:
        if lower.serial in self._sums:
            self._begin_sums(upper)
        return NOTHING

    def removed(self, node: Node) -> None:
        self._sums.pop(node.serial, None)
        self._summed_candidates.pop(node.serial, None)

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

    def _called(self, workflow: Workflow, position: int) -> None:
        """The workflow is active, and call ``position`` says who inherits from whom."""
        expectation = self._activate(workflow.workflow_id)
        agent = self._bits.get(workflow.calls[position].agent, 0)
        self._inheritance.learn(expectation.paths, agent, self._inherits_otherwise)

    def _activate(self, workflow_id: str) -> Expectation:
        expectation = self._active.get(workflow_id)
        if expectation is None:
            expectation = self._active[workflow_id] = Expectation(self._inheritance.readers)
        return expectation

    def _bit_of(self, agent: str) -> int:
        return self._bits.get(agent) or self._bits.setdefault(agent, 1 << len(self._bits))

    def _expect(self, workflow_id: str, forecast: Forecast) -> Changed:
        """Expect what ``forecast`` says from now on, and not what the workflow's last one said.

        Nothing of a workflow that is not active: it may have ended before its forecast came.
        """
        expectation = self._active.get(workflow_id)
        if expectation is None or self._predictor is None:
            return NOTHING
        bits = self._bit_by_column
        bits += map(self._bit_of, islice(self._predictor.agents, len(bits), None))
        weights = zip(bits, self._weigh(forecast).tolist(), strict=False)  # as many as there were then
        following = zip(bits, forecast[0, :-1].tolist(), strict=False)
        expectation.expect({b: w for b, w in weights if w}, {b: p for b, p in following if p})
        for sums in expectation.summed.values():
            sums.behind.add(workflow_id)
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
        for sums in expectation.summed.values():
            sums.change(workflow_id, 0, 0)
            del sums.shares[workflow_id]
            sums.behind.discard(workflow_id)
        return changed

    def _changed(self, expectation: Expectation) -> Changed:
        changed, waiting = expectation.take_candidates(), self._summed_candidates
        changed += [waiting.pop(serial) for serial in list(waiting) if serial in expectation.summed]
        return changed

    # ------------------------------------------------------------------ sums over many workflows

    def _begin_sums(self, node: Node) -> None:
        sums = self._sums[node.serial] = _Sums(node)
        for tag in node.tags or ():
            self._add_to_sums(sums, tag)

    def _add_to_sums(self, sums: _Sums, workflow_id: str) -> None:
        self._active[workflow_id].summed[sums.node.serial] = sums
        sums.behind.add(workflow_id)

    def _sums_of(self, node: Node) -> _Sums:
        """Brought up to date by those who have moved or touched ``node`` since it was last asked about."""
        sums, tags = self._sums[node.serial], node.tags or {}
        for workflow_id in sums.behind:
            expectation, agents = self._active[workflow_id], tags.get(workflow_id, 0)
            score, value = expectation.worth_of(agents), expectation.next_worth_of(agents)
            sums.change(workflow_id, round(score / _UNIT), round(value / _UNIT))
        sums.behind.clear()
        return sums

    def _inherits_otherwise(self) -> None:
        """Who reads from whom is about to change: until now the sums hold what was known."""
        for sums in self._sums.values():
            self._sums_of(sums.node)
        for expectation in self._active.values():
            expectation.forget()

    # ------------------------------------------------------------------ what is asked

    def score(self, node: Node) -> float:
        """Σ over active workflows of A_w(c) · weights (paper, eq. 2)."""
        tags = node.tags or {}
        if len(tags) >= _SUMMED_FROM:
            return self._sums_of(node).score * _UNIT
        total, active = 0.0, self._active
        for tag, agents in tags.items():
            known = active[tag].worth.get(agents)
            total += active[tag].worth_of(agents) if known is None else known
        return total

    def value(self, node: Node) -> float:
        """Σ over active workflows of A_w(c) · P_w, one step ahead (paper, eq. 1)."""
        tags = node.tags or {}
        if len(tags) >= _SUMMED_FROM:
            return self._sums_of(node).value * _UNIT
        total, active = 0.0, self._active
        for tag, agents in tags.items():
            known = active[tag].next_worth.get(agents)
            total += active[tag].next_worth_of(agents) if known is None else known
        return total

    def queued(self, node: Node) -> None:
        """``node`` is a candidate of a queue from now on."""
        if node.serial in self._sums:
            self._summed_candidates[node.serial] = node
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
        self._late: deque[tuple[float, str, Forecast]] = deque()

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
        forecast = predictor.forecast(workflow, position)
        self._late.append((now_s + self._forecast_delay_s, workflow.workflow_id, forecast))

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        changed = self.passed(now_s)
        self._last_seen_s.pop(workflow.workflow_id, None)
        return [*changed, *super().ended(workflow, now_s)]

    def passed(self, now_s: float) -> Changed:
        changed: list[Node] = []
        while self._late and self._late[0][0] <= now_s:
            _, name, forecast = self._late.popleft()
            changed += self._expect(name, forecast)
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
