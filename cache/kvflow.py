"""KVFlow (arXiv 2507.07400): agents' fixed prompts by steps to execution, everything behind them first.

Value: of an agent's fixed prompt, how many steps its agent is away, the minimum over active workflows; a
node shared by several agents has the smallest of theirs, so that nothing goes before what hangs below it.
An agent of whom no active workflow expects a call is infinitely far.
Eviction: nodes behind fixed prompts first, LRU among them; then fixed prompts, the farthest first. Both
tiers alike (our reading: what is to be prefetched should not be dropped first).
Prefetch: fixed prompts of agents one step ahead; suffixes and what is farther may be displaced; at most
four copies at a time. Status-aware order: a request whose prefix is on its way up is passed over this round.
Where the steps come from: `pbkv.predict.step_graph`; the fixed prompts: `fixed_prompts`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pbkv.cache.fixed_prompts import FixedPrompt
from pbkv.cache.follower import Changed, Follower
from pbkv.predict.step_graph import NO_STEPS, StepGraphs, Steps

if TYPE_CHECKING:
    from pbkv.cache.decisions import Lease
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.prefetch import Situation
    from pbkv.cache.scheduling import Waiting
    from pbkv.cache.tiers import Tiers
    from pbkv.cache.tree import Node
    from pbkv.traces.schema import Workflow

_NEVER = float("inf")
_MOST_LOADS = 4
_NO_LIMIT = 2**62  # blocks: the room decides


class _Agent:
    """An agent of one app: its fixed prompt, and how many active workflows are how many steps away."""

    __slots__ = ("counts", "is_next", "prompt", "soonest")

    def __init__(self, name: str) -> None:
        self.prompt = FixedPrompt(name)
        self.counts: dict[int, int] = {}
        self.soonest = _NEVER
        self.is_next = False  # of some workflow

    def count(self, steps: int, change: int) -> None:
        number = self.counts.get(steps, 0) + change
        if number:
            self.counts[steps] = number
        else:
            del self.counts[steps]

    def refresh(self) -> bool:
        """Take the counts in; whether anything came of it."""
        before = self.soonest, self.is_next
        self.soonest, self.is_next = min(self.counts, default=_NEVER), 1 in self.counts
        return before != (self.soonest, self.is_next)


class StepsToExecution(Follower):
    """Follows workflows through the step graphs of their apps, and knows each node's steps."""

    def __init__(self) -> None:
        self._graphs = StepGraphs()
        self._agents: dict[tuple[str, str], _Agent] = {}  # by app and name
        self._by_tag: dict[str, _Agent] = {}
        self._app_of: dict[str, str] = {}  # of live workflows
        self._steps_of: dict[str, Steps] = {}
        self._released: list[Node] = []

    # ------------------------------------------------------------------ what happens

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        self._app_of[workflow.workflow_id] = workflow.app
        return self._expect(workflow, self._graphs.submitted(workflow, position))

    def touched(self, node: Node, lease: Lease) -> None:
        agent = self._agent(self._app_of.get(lease.owner, ""), lease.agent)
        self._released += agent.prompt.use(node, lease.path, lease.owner)

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        steps = self._graphs.call_ended(workflow, position)
        return self._taken() if steps is None else self._expect(workflow, steps)

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        self._graphs.ended(workflow)
        changed = self._expect(workflow, NO_STEPS)
        self._steps_of.pop(workflow.workflow_id, None)
        self._app_of.pop(workflow.workflow_id, None)
        return changed

    def _agent(self, app: str, name: str) -> _Agent:
        agent = self._agents.get((app, name))
        if agent is None:
            tag = str(len(self._agents))
            agent = self._agents[app, name] = self._by_tag[tag] = _Agent(tag)
        return agent

    def _expect(self, workflow: Workflow, steps: Steps) -> Changed:
        before = self._steps_of.get(workflow.workflow_id, NO_STEPS)
        if steps is before:
            return self._taken()
        self._steps_of[workflow.workflow_id] = steps
        moved = {}
        for name in {**before, **steps}:
            old, new = before.get(name), steps.get(name)
            if old != new:
                agent = moved[name] = self._agent(workflow.app, name)
                if old is not None:
                    agent.count(old, -1)
                if new is not None:
                    agent.count(new, 1)
        changed = self._taken()
        for agent in moved.values():
            if agent.refresh():
                changed += agent.prompt.nodes()
        return changed

    def _taken(self) -> list[Node]:
        taken, self._released = self._released, []
        return taken

    # ------------------------------------------------------------------ what is asked

    def steps(self, node: Node) -> float:
        """To the next execution of an agent whose fixed prompt ``node`` belongs to (it must)."""
        return min(self._by_tag[tag].soonest for tag in node.tags or ())

    def is_next(self, node: Node) -> bool:
        """Whether such an agent is one step ahead in some workflow."""
        return any(self._by_tag[tag].is_next for tag in node.tags or ())

    def queued(self, node: Node) -> None:
        """What belongs to an agent is known without."""

    def fixed_blocks(self) -> dict[str, int]:
        """Blocks of each agent's fixed prompt, of those that two workflows have called."""
        known = {name: agent.prompt.num_blocks for (_, name), agent in self._agents.items()}
        return {name: blocks for name, blocks in known.items() if blocks is not None}

    def note(self) -> str:
        return self._graphs.note()


class KnowsSteps(Protocol):
    """What orders and prefetch ask."""

    def steps(self, node: Node) -> float: ...
    def is_next(self, node: Node) -> bool: ...
    def queued(self, node: Node) -> None: ...


class FarthestFirst:
    """What nobody is expected to read again first, by recency; then the most steps to execution."""

    def __init__(self, followed: KnowsSteps) -> None:
        self._steps = followed.steps
        self.queued = followed.queued  # keys can fall: an agent that was next is far when it has run

    def key(self, node: Node) -> tuple[bool, float, float]:
        if node.tags:
            return True, -self._steps(node), node.last_access_s
        return False, node.last_access_s, 0.0


class NextPrompts:
    """Prefetch of what agents one step ahead will read, from the root down."""

    def __init__(self, followed: KnowsSteps) -> None:
        self._followed = followed
        self.queued = followed.queued
        self._num_left = 0

    def key(self, node: Node) -> tuple[bool, int, float]:
        return not self._followed.is_next(node), node.end, -node.last_access_s

    def wants(self, node: Node) -> bool:
        self._num_left -= 1
        return self._num_left >= 0 and self._followed.is_next(node)

    def budget(self, situation: Situation) -> int:
        self._num_left = _MOST_LOADS - situation.num_in_flight
        return _NO_LIMIT if self._num_left > 0 else 0

    def displaceable(self, tiers: Tiers) -> Callable[[Node], bool]:
        steps = self._followed.steps
        return lambda victim: not victim.tags or steps(victim) > 1


class PassOverLoading:
    """Status-aware order: whoever would wait for a copy is passed over this round."""

    def admits(self, request: Waiting, manager: CacheManager, now_s: float) -> bool:
        path = request.path
        match = manager.tree.match(path, path.hit_limit)
        if match.partial is not None and match.partial.load is not None:
            return False
        return all(node.load is None for node in match.nodes)

    def next_change_s(self) -> float:
        return float("inf")
