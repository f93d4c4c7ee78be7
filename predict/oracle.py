"""The oracle: reads the workflow's own future from the trace. An upper bound, not a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pbkv.predict.forecast import Forecast, check_steps
from pbkv.predict.kept import Kept

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow

_END = -1


class Oracle:
    """Certain of the next ``num_steps`` calls, in the trace's order of starts. Exact for chains."""

    is_conditional = True
    needs_context = False

    def __init__(self, num_steps: int = 3) -> None:
        check_steps(num_steps)
        self._num_steps = num_steps
        self._columns: dict[str, int] = {}
        self._agents: list[str] = []
        self._paths = Kept(self._path)
        self._rows: dict[tuple[int, ...], Forecast] = {}  # of as many columns as there are now

    @property
    def agents(self) -> Sequence[str]:
        return self._agents

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        """Read-only: the same array for the same future."""
        path = self._paths.of(workflow)
        if len(path) != len(workflow.calls) + self._num_steps:
            path = self._paths.renew(workflow)
        following = path[position + 1 : position + 1 + self._num_steps]
        rows = self._rows.get(following)
        if rows is None:
            rows = self._rows[following] = self._certain(following)
        return rows

    def end(self, workflow: Workflow) -> None:
        self._paths.drop(workflow)

    def _path(self, workflow: Workflow) -> tuple[int, ...]:
        """The column of each call, and END as often as one can look beyond the last."""
        for call in workflow.calls:
            if call.agent not in self._columns:
                self._columns[call.agent] = len(self._agents)
                self._agents.append(call.agent)
                self._rows.clear()
        return (*(self._columns[call.agent] for call in workflow.calls), *[_END] * self._num_steps)

    def _certain(self, following: Sequence[int]) -> Forecast:
        rows = np.zeros((self._num_steps, len(self._agents) + 1))
        rows[np.arange(self._num_steps), list(following)] = 1.0
        rows.flags.writeable = False
        return rows
