"""The bench of a calibration: a model on this machine, run as the engine runs it.

Sequences hold pages of their own, in an order that is no order: shared pages would be read from a cache,
and pages of a pool in use do not lie in a row.
"""

from __future__ import annotations

from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch

from pbkv.replay.batch import Ints, Slice
from pbkv.replay.calibrate import Direction
from pbkv.replay.model import page_shape
from pbkv.replay.pool import Layout, Pool
from pbkv.replay.runner import ModelRunner, RunnerConfig
from pbkv.replay.shapes import Scale, Shape
from pbkv.replay.transfers import URGENT, Lane, Transfer, Transfers

_DECODES = 8  # iterations of a pure decode that are run in a row, as the engine does
_TOKEN = 20  # which one is of no account
_RUN_PAGES = 4  # pages of a copy that lie in a row: nodes of the tree hold a few
_MAX_COPY_PAGES = 256
_POLL_S = 2e-5


class ModelBench:
    """A `Bench` for ``model`` on its device, with pages for the largest iterations of ``scale``.

    A context manager: threads and pinned memory go at its end. Raises ConfigError if the pools do not fit.
    """

    def __init__(
        self,
        model: Any,
        scale: Scale,
        page_size: int,
        *,
        layout: Layout = "page-first",
        compile_backend: str | None = None,
    ) -> None:
        device = next(model.parameters()).device
        self.page_size = page_size
        shape = page_shape(model, page_size)
        num_pages = pages_of(scale, page_size)
        self._gpu = Pool(shape, num_pages, device, layout=layout)
        self._gpu.pages.zero_()
        self.max_copy_pages = max(_RUN_PAGES, min(_MAX_COPY_PAGES, num_pages // 4))
        is_cuda = device.type == "cuda"
        host_pages = 4 * self.max_copy_pages
        self._host = Pool(shape, host_pages, torch.device("cpu"), layout=layout, is_pinned=is_cuda)
        self._transfers = Transfers(self._gpu, self._host)
        self._runner = ModelRunner(model, self._gpu, RunnerConfig(compile_backend=compile_backend))
        self._order = np.random.default_rng(0).permutation(num_pages).astype(np.int32)
        self.page_bytes = shape.num_bytes

    def __enter__(self) -> ModelBench:
        return self

    def __exit__(self, *_: object) -> None:
        self._transfers.close()
        self._host.close()

    def iteration_s(self, shape: Shape) -> float:
        """Seconds until the iteration is done; of a pure decode, the mean of some in a row."""
        is_decode = all(q == 1 for q, _ in shape)
        num_iterations = _DECODES if is_decode else 1
        self._runner.synchronize()
        started_s = perf_counter()
        batch = self._batch(shape, num_iterations)
        if is_decode:
            tokens = np.full((num_iterations, len(batch)), _TOKEN, np.int64)
            self._runner.decode_run(batch, num_iterations, tokens)
        else:
            self._runner.run(batch)
        self._runner.synchronize()
        return (perf_counter() - started_s) / num_iterations

    def copy_s(self, num_pages: int, direction: Direction, other_busy: bool) -> float:
        """Seconds from the order to the end, with the thread's waking."""
        h2d, d2h = self._transfers.h2d, self._transfers.d2h
        lane, other = (h2d, d2h) if direction == "h2d" else (d2h, h2d)
        half = 2 * self.max_copy_pages
        if not other_busy:
            return self._copied(lane, _scattered(num_pages, 0))
        beside = self._submit(other, np.tile(_scattered(self.max_copy_pages, half), 4))
        while beside.begun_at_s is None:
            sleep(_POLL_S)
        seconds = self._copied(lane, _scattered(num_pages, 0))
        self._wait(beside)
        return seconds

    def _batch(self, shape: Shape, num_iterations: int) -> list[Slice]:
        batch, first = [], 0
        for q, context in shape:
            num_pages = -(-(context + q + num_iterations - 1) // self.page_size)
            pages = self._order[first : first + num_pages]
            first += num_pages
            batch.append(Slice(np.full(q, _TOKEN, np.int64), context, pages))
        return batch

    def _copied(self, lane: Lane, pages: Ints) -> float:
        transfer = self._submit(lane, pages)
        self._wait(transfer)
        return (transfer.ended_at_s or 0.0) - transfer.submitted_at_s

    def _submit(self, lane: Lane, pages: Ints) -> Transfer:
        transfer = Transfer(pages, pages, URGENT)
        self._transfers.submit(lane, transfer)
        return transfer

    def _wait(self, transfer: Transfer) -> None:
        while transfer.ended_at_s is None:
            self._transfers.wait(1.0)
            self._transfers.take_ended()


def pages_of(scale: Scale, page_size: int) -> int:
    """Pages that hold ``scale.max_pool_tokens``: each sequence begins a page, and decodes go on a little."""
    own = 1 + -(-_DECODES // page_size)
    return max(4 * _RUN_PAGES, -(-scale.max_pool_tokens // page_size) + scale.max_sequences * own)


def _scattered(num_pages: int, first: int) -> Ints:
    """Every other run of pages from ``first`` on."""
    numbers = np.arange(num_pages, dtype=np.int32)
    return first + numbers % _RUN_PAGES + 2 * _RUN_PAGES * (numbers // _RUN_PAGES)
