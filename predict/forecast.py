"""What is expected of a workflow's next calls, and what a predictor must be able to say.

A forecast is an array of shape [K, V + 1]: row k − 1 is a distribution over the agents of the k-th next
call, its last column END. Rows are *conditional*: given that the workflow has not ended before step k
(paper §4.1; training masks what follows END). Rows behind a certain END mean nothing and say END.

A predictor may declare what it is in class attributes; these are the defaults:

is_conditional = True     its rows are conditional; False: marginal, END being the chance to have ended by k
needs_context = False     it reads `Call.context` or kinds (`Trace.workflows(with_context=True)`)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow

Forecast = np.ndarray[Any, np.dtype[np.float64]]


class Predictor(Protocol):
    """The plug point of a predictor."""

    @property
    def agents(self) -> Sequence[str]:
        """The columns but END. May grow at its end, never change."""
        ...

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        """What follows call ``position``, from the calls up to it (the oracle alone looks further).

        Asked once a call, in the order in which the calls' prefills end.
        """
        ...

    def end(self, workflow: Workflow) -> None:
        """The workflow has ended."""
        ...


def needs_context(predictor: Predictor) -> bool:
    """Whether workflows must be read with contexts and kinds for ``predictor``."""
    return bool(getattr(predictor, "needs_context", False))


def as_conditional(predictor: Predictor) -> Predictor:
    """``predictor`` if its rows are conditional, else one that turns them.

    Survival is a factor of the weights (`survival`) and, in marginal rows, already inside them: used as
    they are they would count it twice.
    """
    return predictor if getattr(predictor, "is_conditional", True) else _Conditional(predictor)


class _Conditional:
    """The conditional rows of a predictor of marginal ones."""

    is_conditional = True

    def __init__(self, marginal: Predictor) -> None:
        self._marginal = marginal
        self.needs_context = needs_context(marginal)

    @property
    def agents(self) -> Sequence[str]:
        return self._marginal.agents

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        return conditional(self._marginal.forecast(workflow, position))

    def end(self, workflow: Workflow) -> None:
        self._marginal.end(workflow)


def survival(forecast: Forecast) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The chance that the workflow is alive before step k, for k = 1 … K (paper §3: s)."""
    alive = np.cumprod(1.0 - forecast[:, -1])
    return np.concatenate(([1.0], alive[:-1]))


def conditional(marginal: Forecast) -> Forecast:
    """The conditional forecast of a marginal one, whose END column holds the chance to have ended by k."""
    ended = np.concatenate(([0.0], marginal[:-1, -1]))
    alive = 1.0 - ended
    rows = marginal.copy()
    rows[:, -1] -= ended
    certain_end = np.zeros_like(marginal)
    certain_end[:, -1] = 1.0
    possible = alive > 1e-12  # behind a certain END nothing is conditional on anything
    result: Forecast = np.where(
        possible[:, None], rows / np.where(possible, alive, 1.0)[:, None], certain_end
    )
    return result


def check_steps(num_steps: int) -> None:
    """Raises ConfigError for K < 1."""
    if num_steps < 1:
        raise ConfigError("num_steps", num_steps, "a number ≥ 1")
