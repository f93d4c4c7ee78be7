"""What comes while a workflow runs: vectors that are a model's own and not the trace's, and forecasts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pbkv.traces.schema import Call

if TYPE_CHECKING:
    from pbkv.predict.forecast import Forecast
    from pbkv.traces.schema import Workflow


class LiveCalls(list[Call]):
    """The calls of a running workflow: each gets its vector when its prompt has been computed.

    Vectors that a trace has are not shown. What is worked out of these calls must not be kept for later
    ones. Where forecasts are worked out beside the model, a call has one that is under way (`expect`) until
    it has come (`tell`).
    """

    def __init__(self, calls: Iterable[Call]) -> None:
        super().__init__(call._replace(context=None) for call in calls)
        self._told: dict[int, Forecast | None] = {}

    def show(self, position: int, context: Sequence[float]) -> None:
        """``context`` is the vector of call ``position`` from now on."""
        self[position] = self[position]._replace(context=context)

    def expect(self, position: int) -> None:
        """The forecast of call ``position`` is being worked out."""
        self._told[position] = None

    def tell(self, position: int, forecast: Forecast) -> None:
        """… and has come."""
        self._told[position] = forecast

    def forecast(self, position: int) -> Forecast | None:
        """The forecast that has come of call ``position``, if one has."""
        return self._told.get(position)

    def is_under_way(self, position: int) -> bool:
        return position in self._told and self._told[position] is None


def is_under_way(workflow: Workflow, position: int) -> bool:
    """Whether the forecast of call ``position`` is being worked out, and not to be asked for yet."""
    return isinstance(workflow.calls, LiveCalls) and workflow.calls.is_under_way(position)
