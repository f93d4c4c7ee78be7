"""Context vectors that come while a workflow runs: a model's own, and not the trace's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pbkv.traces.schema import Call


class LiveCalls(list[Call]):
    """The calls of a running workflow: each gets its vector when its prompt has been computed.

    Vectors that a trace has are not shown. What is worked out of these calls must not be kept for later
    ones.
    """

    def __init__(self, calls: Iterable[Call]) -> None:
        super().__init__(call._replace(context=None) for call in calls)

    def show(self, position: int, context: Sequence[float]) -> None:
        """``context`` is the vector of call ``position`` from now on."""
        self[position] = self[position]._replace(context=context)
