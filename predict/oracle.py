"""The oracle: reads the workflow's own future from the trace. An upper bound, not a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pbkv.predict.forecast import Forecast, check_steps

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow


class Oracle:
    """Certain of the next ``num_steps`` calls, in the trace's order of starts. Exact for chains."""

    def __init__(self, num_steps: int = 3) -> None:
        check_steps(num_steps)
        self._num_steps = num_steps
        self._columns: dict[str, int] = {}

    @property
    def agents(self) -> Sequence[str]:
        return list(self._columns)

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        following = [call.agent for call in workflow.calls[position + 1 :][: self._num_steps]]
        for agent in following:
            self._columns.setdefault(agent, len(self._columns))
        rows = np.zeros((self._num_steps, len(self._columns) + 1))
        for step in range(self._num_steps):
            rows[step, self._columns[following[step]] if step < len(following) else -1] = 1.0
        return rows

    def end(self, workflow: Workflow) -> None:
        """Nothing to learn."""
