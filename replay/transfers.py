"""Copies of pages between the pools, each direction on a thread (and, on CUDA, a stream) of its own.

A copy on demand goes before a prefetch, and a prefetch moves in slices of at most 64 MiB, so that a demand
load waits for one slice at most. Whoever submits a copy knows that its pages are written and that nobody
else uses them until it has ended.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Thread
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from pbkv.replay.memcpy import PageCopies, batch_copy
from pbkv.replay.pool import copy_runs

if TYPE_CHECKING:
    from pbkv.replay.page_tables import PageIds
    from pbkv.replay.pool import Pool

SLICE_BYTES = 64 << 20
URGENT, AHEAD = 0, 1


@dataclass(eq=False)
class Transfer:
    """``source`` pages to ``target`` pages. Instants are the machine's (perf_counter), None until then."""

    source: PageIds
    target: PageIds
    priority: int
    submitted_at_s: float = field(default_factory=perf_counter)
    begun_at_s: float | None = None
    ended_at_s: float | None = None
    number: int = 0  # of its lane: the order among equals
    num_done: int = 0  # pages

    def __lt__(self, other: Transfer) -> bool:
        return (self.priority, self.number) < (other.priority, other.number)

    @property
    def has_ended(self) -> bool:
        return self.num_done == len(self.source)


class Lane:
    """One direction of the link: copies one slice after the other, the most urgent transfer first.

    ``on_end`` is called on the lane's thread with a transfer that has ended, or with the error that ended
    the lane. ``copies``: how pages are copied on CUDA.
    """

    def __init__(
        self,
        source: Pool,
        target: Pool,
        on_end: Callable[[Transfer | Exception], None],
        copies: PageCopies,
    ) -> None:
        self._source, self._target, self._on_end, self._copies = source, target, on_end, copies
        self._slice_pages = max(1, SLICE_BYTES // source.shape.num_bytes)
        self._queue: list[Transfer] = []
        self._num_submitted = 0
        self._changed = Condition()
        self._is_closed = False
        self.is_ahead = False  # a slice of a copy ahead of need is being copied
        self.busy_s = 0.0
        self.num_bytes = 0
        device = next((p.device for p in (source, target) if p.device.type == "cuda"), None)
        self._stream = None if device is None else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._thread = Thread(target=self._serve, daemon=True, name="pbkv-copies")
        self._thread.start()

    def submit(self, transfer: Transfer) -> None:
        with self._changed:
            self._num_submitted += 1
            transfer.number = self._num_submitted
            heapq.heappush(self._queue, transfer)
            self._changed.notify_all()

    def make_urgent(self, transfer: Transfer) -> None:
        """What is left of ``transfer`` goes before copies ahead of need."""
        with self._changed:
            transfer.priority = URGENT
            heapq.heapify(self._queue)

    def take_back(self, transfer: Transfer) -> bool:
        """Whether ``transfer`` had not begun: then it will not be carried out."""
        with self._changed:
            if transfer.begun_at_s is not None:
                return False
            self._queue.remove(transfer)
            heapq.heapify(self._queue)
            return True

    def close(self) -> None:
        """End the thread when what is queued has been copied."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        try:
            while (transfer := self._next()) is not None:
                self._copy_slice(transfer)
                if transfer.has_ended:
                    transfer.ended_at_s = perf_counter()
                    self._on_end(transfer)
                else:
                    with self._changed:
                        heapq.heappush(self._queue, transfer)
        except Exception as error:  # raised where somebody waits for the copy
            self._on_end(error)

    def _next(self) -> Transfer | None:
        with self._changed:
            self.is_ahead = False
            while not self._queue:
                if self._is_closed:
                    return None
                self._changed.wait()
            transfer = heapq.heappop(self._queue)
            self.is_ahead = transfer.priority == AHEAD
            if transfer.begun_at_s is None:
                transfer.begun_at_s = perf_counter()
            return transfer

    def _copy_slice(self, transfer: Transfer) -> None:
        end = transfer.num_done + self._slice_pages
        source, target = (pages[transfer.num_done : end] for pages in (transfer.source, transfer.target))
        started_s = perf_counter()
        if self._stream is None:
            copy_runs(self._source, self._target, source, target)
        else:
            with torch.cuda.stream(self._stream):
                self._copies.enqueue(self._source, self._target, source, target, self._stream)
            self._stream.synchronize()
        self.busy_s += perf_counter() - started_s
        self.num_bytes += len(source) * self._source.shape.num_bytes
        transfer.num_done += len(source)


class Transfers:
    """Both directions, and the copies of either that have ended and nobody has asked for yet.

    ``copies``: how pages are copied on CUDA [default: many in one call, where that can be].
    """

    def __init__(self, gpu: Pool, host: Pool, copies: PageCopies | None = None) -> None:
        self._ended = Condition()
        self._done: list[Transfer] = []
        self._error: Exception | None = None
        self.num_in_flight = 0
        copies = copies or PageCopies(batch_copy())
        self.h2d, self.d2h = Lane(host, gpu, self._end, copies), Lane(gpu, host, self._end, copies)

    def submit(self, lane: Lane, transfer: Transfer) -> None:
        self.num_in_flight += 1
        lane.submit(transfer)

    def take_back(self, lane: Lane, transfer: Transfer) -> bool:
        is_back = lane.take_back(transfer)
        self.num_in_flight -= is_back
        return is_back

    def take_ended(self) -> list[Transfer]:
        """Those that have ended since the last call, in the order of their ends. Raises a lane's error."""
        with self._ended:
            if self._error is not None:
                raise self._error
            taken, self._done = self._done, []
        self.num_in_flight -= len(taken)
        return taken

    def wait(self, seconds: float | None = None) -> None:
        """Until a copy has ended that nobody has asked for yet, or ``seconds`` are over."""
        with self._ended:
            self._ended.wait_for(lambda: self._done or self._error, seconds)

    def close(self) -> None:
        self.h2d.close()
        self.d2h.close()

    def _end(self, ended: Transfer | Exception) -> None:
        with self._ended:
            if isinstance(ended, Transfer):
                self._done.append(ended)
            else:
                self._error = ended
            self._ended.notify_all()
