"""Markov predictors of order n with back-off: counts of what came k calls after the last n agents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pbkv.predict.forecast import Forecast, check_steps
from pbkv.predict.kept import Kept
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow

_END = -1


class _Context:
    """A run of agents: how often each outcome came k calls after it, and the runs one agent longer."""

    __slots__ = ("counts", "forecast", "longer")

    def __init__(self, num_steps: int) -> None:
        self.counts: list[dict[int, int]] = [{} for _ in range(num_steps)]  # by outcome, a column or END
        self.longer: dict[int, _Context] = {}  # by the agent that came next
        self.forecast: Forecast | None = None  # kept where nothing is learnt any more


class Markov:
    """Counts what came k = 1 … K calls after each run of up to ``order`` agents, END included.

    Step k counts only workflows that were alive before it, so its rows are conditional. A context never
    seen backs off to its last agents, and in the end to no context at all; before anything was seen, all
    outcomes are equally likely. ``learns_online``: every call asked about and every end is learnt from, so
    that it can start from nothing, and a new agent gets a new column; otherwise `learn` beforehand, and an
    agent never learnt has no column and cuts the context short.
    """

    is_conditional = True
    needs_context = False

    def __init__(self, order: int = 3, num_steps: int = 3, *, learns_online: bool = True) -> None:
        check_steps(num_steps)
        if order < 0:
            raise ConfigError("order", order, "a number ≥ 0")
        self.order = order
        self.num_steps = num_steps
        self.source: str | None = None  # the file that it comes from
        self._learns_online = learns_online
        self._agents: list[str] = []
        self._columns: dict[str, int] = {}
        self._root = _Context(num_steps)
        # For each call of a live workflow the contexts that end with it, the empty one first.
        self._paths = Kept[list[list[_Context]]](lambda workflow: [])

    @property
    def agents(self) -> Sequence[str]:
        return self._agents

    def learn(self, workflows: Iterable[Workflow]) -> None:
        """Learn from whole workflows."""
        for workflow in workflows:
            path: list[list[_Context]] = []
            self._follow(workflow, len(workflow.calls), path, grows=True)
            for position, call in enumerate(workflow.calls):
                self._count(path, position, self._columns[call.agent])
            self._count(path, len(path), _END)

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        """Read-only where nothing is learnt: the same array for the same context."""
        path = self._paths.of(workflow)
        self._follow(workflow, position + 1, path, grows=self._learns_online)
        contexts = path[position]
        if self._learns_online:
            self._count(path, position, self._columns[workflow.calls[position].agent])
            return self._rows(contexts)
        longest = contexts[-1]
        if longest.forecast is None:
            longest.forecast = self._rows(contexts)
            longest.forecast.flags.writeable = False
        return longest.forecast

    def end(self, workflow: Workflow) -> None:
        if self._learns_online:
            path = self._paths.of(workflow)
            self._follow(workflow, len(workflow.calls), path, grows=True)
            self._count(path, len(path), _END)
        self._paths.drop(workflow)

    def counts(self) -> Iterator[tuple[tuple[int, ...], int, int, int]]:
        """(context, step from 0, outcome, how often) of all that was learnt; columns, END is −1."""
        stack: list[tuple[tuple[int, ...], _Context]] = [((), self._root)]
        while stack:
            agents, context = stack.pop()
            for step, seen in enumerate(context.counts):
                yield from ((agents, step, outcome, number) for outcome, number in seen.items())
            stack += [((*agents, agent), longer) for agent, longer in context.longer.items()]

    @classmethod
    def from_counts(
        cls,
        order: int,
        num_steps: int,
        agents: Iterable[str],
        counts: Iterable[tuple[Sequence[int], int, int, int]],
    ) -> Markov:
        """One that has learnt ``counts`` and learns no more; steps beyond ``num_steps`` are left out."""
        markov = cls(order, num_steps, learns_online=False)
        for agent in agents:
            markov._column(agent)
        for run, step, outcome, number in counts:
            context = markov._root
            for agent_column in run:
                context = context.longer.setdefault(agent_column, _Context(num_steps))
            if step < num_steps:
                context.counts[step][outcome] = number
        return markov

    def _column(self, agent: str) -> int:
        column = self._columns.get(agent)
        if column is None:
            column = self._columns[agent] = len(self._agents)
            self._agents.append(agent)
        return column

    def _follow(self, workflow: Workflow, num_calls: int, path: list[list[_Context]], *, grows: bool) -> None:
        """Add to ``path`` the contexts of the calls up to ``num_calls``; unseen ones are made or left out."""
        for position in range(len(path), num_calls):
            agent = workflow.calls[position].agent
            column = self._column(agent) if grows else self._columns.get(agent)
            contexts = [self._root]
            if column is not None:
                for shorter in path[position - 1][: self.order] if position else contexts[: self.order]:
                    longer = shorter.longer.get(column)
                    if longer is None:
                        if not grows:  # then no longer run was seen either
                            break
                        longer = shorter.longer[column] = _Context(self.num_steps)
                    contexts.append(longer)
            path.append(contexts)

    def _count(self, path: Sequence[Sequence[_Context]], position: int, outcome: int) -> None:
        """Count ``outcome``, which came at ``position``, under every context 1 … K calls before it."""
        for step in range(min(self.num_steps, position)):
            for context in path[position - 1 - step]:
                seen = context.counts[step]
                seen[outcome] = seen.get(outcome, 0) + 1

    def _rows(self, contexts: Sequence[_Context]) -> Forecast:
        width = len(self._agents) + 1
        rows = []
        for step in range(self.num_steps):
            row = [0.0] * width
            for context in reversed(contexts):
                if seen := context.counts[step]:
                    total = sum(seen.values())
                    for outcome, number in seen.items():
                        row[outcome] = number / total  # END is −1, the last column
                    break
            else:
                row = [1.0 / width] * width
            rows.append(row)
        return np.array(rows)
