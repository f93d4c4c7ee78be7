"""Noise on any predictor: (1 − λ) P + λ · uniform (paper, eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pbkv.predict.forecast import Forecast, Predictor, as_conditional, needs_context
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow


class Noisy:
    """Mixes each conditional row of ``predictor`` with the uniform distribution over its agents and END."""

    is_conditional = True

    def __init__(self, predictor: Predictor, noise: float) -> None:
        if not 0 <= noise <= 1:
            raise ConfigError("noise", noise, "a share from 0 to 1")
        self._predictor = as_conditional(predictor)
        self._noise = noise
        self.needs_context = needs_context(predictor)

    @property
    def inner(self) -> Predictor:
        """The predictor without noise."""
        return self._predictor

    @property
    def agents(self) -> Sequence[str]:
        return self._predictor.agents

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        rows = self._predictor.forecast(workflow, position)
        mixed: Forecast = (1 - self._noise) * rows + self._noise / rows.shape[1]
        return mixed

    def end(self, workflow: Workflow) -> None:
        self._predictor.end(workflow)
