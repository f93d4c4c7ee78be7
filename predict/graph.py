"""`graph`: the paper's learned predictor, from a file of `pbkv train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pbkv.predict.context import context_vectors
from pbkv.predict.examples import columns_of, path_of
from pbkv.predict.forecast import Forecast
from pbkv.predict.kept import Kept
from pbkv.predict.live import LiveCalls
from pbkv.predict.network import Doubles, Network, history_of

if TYPE_CHECKING:
    from pbkv.traces.schema import Workflow


class Graph:
    """Forecasts of a trained `Network`.

    `forecast` works out all calls of a workflow when it is first asked about, each from what was known at
    that call, so that the others cost a look-up. `at` works out one call alone, as a server has to, and as
    `forecast` does where vectors come while the workflow runs (`LiveCalls`), if they bring no forecast.
    """

    is_conditional = True

    def __init__(
        self, agents: Sequence[str], network: Network, context_kind: str, num_steps: int | None = None
    ) -> None:
        """``num_steps``: of the network's steps the first ones [default: all]."""
        self.agents = tuple(agents)
        self.network = network
        self.context_kind = context_kind
        self.num_steps = network.num_steps if num_steps is None else num_steps
        self.needs_context = context_kind != "none"
        self.source: str | None = None  # the file that it comes from
        self._columns = columns_of(self.agents)
        self._tables = Kept(self.table)

    def forecast(self, workflow: Workflow, position: int) -> Forecast:
        """Read-only."""
        if self.reads_vectors and isinstance(workflow.calls, LiveCalls):
            told = workflow.calls.forecast(position)
            return self.at(workflow, position) if told is None else told
        table = self._tables.of(workflow)
        if position >= len(table):
            table = self._tables.renew(workflow)
        rows: Forecast = table[position]
        return rows

    def end(self, workflow: Workflow) -> None:
        self._tables.drop(workflow)

    @property
    def reads_vectors(self) -> bool:
        """Whether a call's own vector (`Call.context`) is part of its forecast."""
        return self.context_kind == "column"

    def table(self, workflow: Workflow) -> Doubles:
        """The forecasts of all calls in one pass, shape [T, K, V + 1]; row t knows the calls up to t only."""
        current = path_of(workflow, self._columns)
        history = history_of(current, self.network.width)
        contexts = context_vectors(self.context_kind, self.network.num_dims, workflow)
        table = self.network.forecasts(current, history, contexts)[:, : self.num_steps]
        table.flags.writeable = False
        return table

    def at(self, workflow: Workflow, position: int, context: Sequence[float] | None = None) -> Forecast:
        """The forecast of one call from the calls up to it; ``context`` instead of the call's own vector."""
        so_far = replace(workflow, calls=workflow.calls[: position + 1])
        current, history = self.inputs(so_far, position)
        shown = so_far if self.context_kind == "hash" else replace(so_far, calls=so_far.calls[-1:])
        vectors = context_vectors(self.context_kind, self.network.num_dims, shown)[-1:]
        if context is not None:
            vectors[0] = context
        rows: Forecast = self.network.forecasts(np.array([current]), history[None], vectors)[0]
        return rows[: self.num_steps]

    def inputs(self, workflow: Workflow, position: int) -> tuple[int, Doubles]:
        """Of a call, for the network: its agent's row, and how often each row was called before; [V + 1]."""
        path = path_of(replace(workflow, calls=workflow.calls[: position + 1]), self._columns)
        return int(path[-1]), np.bincount(path[:-1], minlength=self.network.width).astype(np.float64)
