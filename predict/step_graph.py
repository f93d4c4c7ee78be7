"""KVFlow's step graph (arXiv 2507.07400), learnt while serving: how many steps away each agent is.

Nothing is read ahead of time. As long as all workflows of an app have made the same calls (agents and
parents) it is *static*: the first one that ends is the graph, and a call is one step behind the last of
its unfinished parents (an AND-join: 1 + max). Until then, and for good once two workflows differ, such a
graph does not exist; in its place stands the likeliest path: from the current agent always to whoever
followed it most often so far (Markov of order 1), until the workflow would end or the path repeats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbkv.traces.schema import Call, Workflow

Steps = Mapping[str, int]  # by agent: 0 it runs, 1 it is next; who is not in it does not come any more
NO_STEPS: Steps = {}
_END = ""
_Shape = tuple[tuple[str, tuple[int, ...]], ...]  # of each call: its agent and its parents


class _Progress:
    """What a live workflow has done: bits of calls begun and ended, and whose call came last."""

    __slots__ = ("begun", "current", "ended")

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.current = _END


class StepGraph:
    """The graph of one app. Told what its workflows do; answers how far each agent is."""

    def __init__(self) -> None:
        self.is_static = True  # as far as is known
        self._shape: _Shape | None = None
        self._live: dict[str, _Progress] = {}
        self._followers: dict[str, Counter[str]] = {}
        self._likeliest: dict[str, str] = {}
        self._known: dict[tuple[int, int], Steps] = {}  # static: by calls begun and ended
        self._known_paths: dict[tuple[str, bool], Steps] = {}  # else: by agent, and whether it runs

    def submitted(self, workflow: Workflow, position: int) -> Steps:
        """Call ``position`` has come in."""
        progress = self._live.setdefault(workflow.workflow_id, _Progress())
        call = workflow.calls[position]
        if position:
            self._learn(workflow.calls[position - 1].agent, call.agent)
        if self._shape is not None and self.is_static:
            expected = self._shape[position] if position < len(self._shape) else None
            self._settle(expected == _shape_of(call))
        progress.begun |= 1 << position
        progress.current = call.agent
        return self._steps(progress)

    def call_ended(self, workflow: Workflow, position: int) -> Steps:
        """The answer of call ``position`` is out."""
        progress = self._live.setdefault(workflow.workflow_id, _Progress())
        progress.ended |= 1 << position
        return self._steps(progress)

    def ended(self, workflow: Workflow) -> None:
        """The workflow sends no more calls."""
        if self._live.pop(workflow.workflow_id, None) is None:
            return
        self._learn(workflow.calls[-1].agent, _END)
        if self.is_static:
            shape = tuple(map(_shape_of, workflow.calls))
            self._shape = self._shape or shape
            self._settle(shape == self._shape)

    def _settle(self, is_as_before: bool) -> None:
        if not is_as_before:
            self.is_static = False
            self._known.clear()

    def _learn(self, agent: str, follower: str) -> None:
        counts = self._followers.setdefault(agent, Counter())
        counts[follower] += 1
        best = self._likeliest.get(agent)
        if best is None or (best != follower and counts[follower] > counts[best]):
            self._likeliest[agent] = follower
            self._known_paths.clear()

    def _steps(self, progress: _Progress) -> Steps:
        if self._shape is not None and self.is_static:
            key = progress.begun, progress.ended
            if key not in self._known:
                self._known[key] = _static_steps(self._shape, *key)
            return self._known[key]
        runs = progress.begun != progress.ended
        path = self._known_paths.get((progress.current, runs))
        if path is None:
            path = self._known_paths[progress.current, runs] = self._likeliest_steps(progress.current, runs)
        return path

    def _likeliest_steps(self, agent: str, runs: bool) -> Steps:
        steps = {agent: 0} if runs else {}
        number, following = 1, self._likeliest.get(agent, _END)
        while following != _END and following not in steps:  # from a repetition on it goes round
            steps[following] = number
            number, following = number + 1, self._likeliest.get(following, _END)
        return steps


class StepGraphs:
    """One graph an app. An app of which no call has come in has none, and no answer."""

    def __init__(self) -> None:
        self._by_app: dict[str, StepGraph] = {}

    def submitted(self, workflow: Workflow, position: int) -> Steps:
        graph = self._by_app.get(workflow.app) or self._by_app.setdefault(workflow.app, StepGraph())
        return graph.submitted(workflow, position)

    def call_ended(self, workflow: Workflow, position: int) -> Steps | None:
        graph = self._by_app.get(workflow.app)
        return graph.call_ended(workflow, position) if graph else None

    def ended(self, workflow: Workflow) -> None:
        if (graph := self._by_app.get(workflow.app)) is not None:
            graph.ended(workflow)

    def note(self) -> str:
        """Says so where no static graph exists."""
        return "" if all(graph.is_static for graph in self._by_app.values()) else "likeliest path"


def _shape_of(call: Call) -> tuple[str, tuple[int, ...]]:
    return call.agent, tuple(call.parent_indices)


def _static_steps(shape: _Shape, begun: int, ended: int) -> Steps:
    """1 + max over unfinished parents for each call to come; an agent is as far as its first call."""
    depths: list[int] = []
    steps: dict[str, int] = {}
    for index, (agent, parents) in enumerate(shape):
        depth = 0
        if not begun >> index & 1:
            depth = 1 + max((depths[p] for p in parents if not ended >> p & 1), default=0)
        depths.append(depth)
        if not ended >> index & 1:
            steps[agent] = min(depth, steps.get(agent, depth))
    return steps
