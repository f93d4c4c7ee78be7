"""Markov predictors of order n with back-off: counts of what came k calls after the last n agents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pbkv.predict.forecast import Forecast, check_steps
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow

_END = -1
_Context = tuple[int, ...]


class Markov:
    """Counts what came k = 1 … K calls after each run of up to ``order`` agents, END included.

    Step k counts only workflows that were alive before it, so its rows are conditional. A context never
    seen backs off to its last agents, and in the end to no context at all; before anything was seen, all
    outcomes are equally likely. ``learns_online``: every call asked about and every end is learnt from, so
    that it can start from nothing; otherwise `learn` beforehand.
    """

    def __init__(self, order: int = 3, num_steps: int = 3, *, learns_online: bool = True) -> None:
        check_steps(num_steps)
        if order < 0:
            raise ConfigError("order", order, "a number ≥ 0")
        self._order = order
        self._num_steps = num_steps
        self._learns_online = learns_online
        self._columns: dict[str, int] = {}
        self._counts: list[dict[_Context, Counter[int]]] = [{} for _ in range(num_steps)]
        self._known: dict[_Context, Forecast] = {}  # forecasts made since the last lesson

    @property
    def agents(self) -> Sequence[str]:
        return list(self._columns)

    def learn(self, workflows: Iterable[Workflow]) -> None:
        """Learn from whole workflows."""
        for workflow in workflows:
            path = self._path(workflow, len(workflow.calls))
            for end in range(1, len(path) + 1):
                self._count(path[:end])
            self._count([*path, _END])

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        path = self._path(workflow, position + 1)
        if self._learns_online:
            self._count(path)
        context = tuple(path[-self._order :]) if self._order else ()
        if context not in self._known:
            self._known[context] = np.array([self._row(step, context) for step in range(self._num_steps)])
        return self._known[context]

    def end(self, workflow: Workflow) -> None:
        if self._learns_online:
            self._count([*self._path(workflow, len(workflow.calls)), _END])

    def _path(self, workflow: Workflow, num_calls: int) -> list[int]:
        columns = self._columns
        return [columns.setdefault(call.agent, len(columns)) for call in workflow.calls[:num_calls]]

    def _count(self, path: Sequence[int]) -> None:
        """Count the last outcome of ``path`` under every context that ends k calls before it."""
        self._known.clear()
        outcome = path[-1]
        for step, counts in enumerate(self._counts):
            end = len(path) - 1 - step
            if end < 1:
                break
            for length in range(min(self._order, end) + 1):
                counts.setdefault(tuple(path[end - length : end]), Counter())[outcome] += 1

    def _row(self, step: int, context: _Context) -> Forecast:
        width = len(self._columns) + 1
        for start in range(len(context) + 1):
            if seen := self._counts[step].get(context[start:]):
                total = seen.total()
                row = np.zeros(width)
                for outcome, number in seen.items():
                    row[outcome] = number / total  # END is −1, the last column
                return row
        return np.full(width, 1.0 / width)
