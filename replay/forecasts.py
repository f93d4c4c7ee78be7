"""Forecasts beside the model: the engine goes on, and its policy is told when they have come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from pbkv.predict.live import LiveCalls
from pbkv.replay.memory import memory_errors
from pbkv.traces.errors import ConfigError
from pbkv.traces.foreign_code import words

if TYPE_CHECKING:
    from pbkv.predict.graph import Graph
    from pbkv.predict.network import Floats
    from pbkv.replay.side import Pending, Rows, Side
    from pbkv.serve.request import Request


@dataclass(frozen=True, slots=True)
class Told:
    """A forecast of which the policy is told now, for the table ``forecasts`` (`pbkv.traces.records`)."""

    request: Request
    num_calls: int
    seconds: float
    engine_s: float


@dataclass(frozen=True, slots=True)
class _Batch:
    requests: Sequence[Request]
    pending: Pending
    engine_s: float


class SideForecasts:
    """A `pbkv.serve.world.Forecasts`: the network of ``graph`` on ``side``.

    ``on_told`` is called with each forecast that is taken. Whatever goes wrong on the side is raised where
    the forecast is taken: MemoryError for want of memory, else ConfigError.
    """

    def __init__(self, graph: Graph, side: Side, on_told: Callable[[Told], None]) -> None:
        self._graph, self._side, self._on_told = graph, side, on_told
        self._batches: deque[_Batch] = deque()

    # ------------------------------------------------------------------ what the worker does

    def start(self, requests: Sequence[Request], hidden: Rows) -> None:
        """The prompts of ``requests`` are being computed or have been; ``hidden``: their states."""
        started_s = perf_counter()
        inputs = [self._graph.inputs(request.described, request.position) for request in requests]
        current, history = np.array([row for row, _ in inputs]), np.stack([counts for _, counts in inputs])
        pending = self._side.start(self._graph.network.known(current, history), hidden)
        for request in requests:
            _calls_of(request).expect(request.position)
        self._batches.append(_Batch(requests, pending, perf_counter() - started_s))

    def close(self) -> None:
        self._side.close()

    # ------------------------------------------------------------------ what the engine asks

    @property
    def num_under_way(self) -> int:
        return sum(len(batch.requests) for batch in self._batches)

    def take(self) -> list[Request]:
        taken: list[Request] = []
        while self._batches and self._batches[0].pending.has_come():
            taken += self._told(self._batches.popleft())
        return taken

    def wait(self) -> None:
        for batch in self._batches:
            self._result(batch)

    # ------------------------------------------------------------------

    def _told(self, batch: _Batch) -> Sequence[Request]:
        started_s = perf_counter()
        logits, seconds = self._result(batch)
        rows = self._graph.network.rows_of(logits)[:, : self._graph.num_steps]
        for request, forecast in zip(batch.requests, rows, strict=True):
            _calls_of(request).tell(request.position, forecast)
        engine_s = batch.engine_s + perf_counter() - started_s
        for request in batch.requests:
            self._on_told(Told(request, len(batch.requests), seconds, engine_s))
        return batch.requests

    def _result(self, batch: _Batch) -> tuple[Floats, float]:
        try:
            with memory_errors():
                return batch.pending.result()
        except MemoryError:
            raise
        except Exception as error:
            where = f"predictor {self._graph.source or 'graph'}"
            raise ConfigError(where, words(error), "no error in it") from error


def _calls_of(request: Request) -> LiveCalls:
    calls = request.described.calls
    assert isinstance(calls, LiveCalls)  # the worker starts forecasts of no others
    return calls
