"""`none`: no forecast at all, the floor that any predictor must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pbkv.predict.forecast import Forecast, check_steps

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow


class Silent:
    """Knows no agents, so every agent's weight is 0.

    Its rows have END as their only column. Under `pbkv-he` all active nodes then score 0 and its ties
    decide: retired entries first as in LAE, then the deeper ones, then the least recently used.
    """

    is_conditional = True
    needs_context = False
    agents: tuple[str, ...] = ()

    def __init__(self, num_steps: int = 3) -> None:
        check_steps(num_steps)
        self._rows = np.ones((num_steps, 1))
        self._rows.flags.writeable = False

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        return self._rows

    def end(self, workflow: Workflow) -> None:
        """Nothing to forget."""
