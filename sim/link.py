"""One direction of the host link: a server in virtual time, urgent copies before background ones.

A background copy moves in slices, so an urgent copy waits for one slice at most (spec of the replay
engine: demand load > prefetch; write-back has the other direction to itself).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

SLICE_BYTES = 64 << 20


@dataclass(eq=False, slots=True)
class BackgroundCopy:
    """A copy that gives way: served from ``submitted_at_s`` on, whenever nothing urgent is queued."""

    num_bytes: int
    submitted_at_s: float
    left_bytes: int
    done_at_s: float | None = None


class Link:
    """Serves copies one after another. ``seconds(num_bytes, other_busy)`` is one copy's service time."""

    def __init__(self, seconds: Callable[[int, bool], float]) -> None:
        self._seconds = seconds
        self._background: deque[BackgroundCopy] = deque()
        self._free_at_s = 0.0
        self.busy_s = 0.0
        self.other: Link | None = None

    def is_busy_at(self, at_s: float) -> bool:
        return self._free_at_s > at_s

    def submit(self, num_bytes: int, now_s: float) -> tuple[float, float]:
        """Queue an urgent copy behind the urgent ones before it: (start, end) in seconds."""
        self.advance(now_s)
        start_s = max(now_s, self._free_at_s)
        return start_s, self._serve(num_bytes, start_s)

    def submit_background(self, num_bytes: int, now_s: float) -> BackgroundCopy:
        """Queue a copy that every urgent one may overtake; its end is known when it has come."""
        self.advance(now_s)
        copy = BackgroundCopy(num_bytes, now_s, num_bytes)
        self._background.append(copy)
        return copy

    def advance(self, now_s: float) -> list[BackgroundCopy]:
        """Serve the background slices that start before ``now_s``; the copies they complete."""
        completed = []
        while self._background:
            copy = self._background[0]
            start_s = max(self._free_at_s, copy.submitted_at_s)
            if start_s >= now_s:
                break
            num_bytes = min(SLICE_BYTES, copy.left_bytes)
            copy.left_bytes -= num_bytes
            end_s = self._serve(num_bytes, start_s)
            if not copy.left_bytes:
                copy.done_at_s = end_s
                completed.append(self._background.popleft())
        return completed

    def _serve(self, num_bytes: int, start_s: float) -> float:
        contended = self.other is not None and self.other.is_busy_at(start_s)
        service_s = self._seconds(num_bytes, contended)
        self.busy_s += service_s
        self._free_at_s = start_s + service_s
        return self._free_at_s
