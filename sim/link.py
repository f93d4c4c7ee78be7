"""One direction of the host link: a server in virtual time, urgent copies before background ones.

A background copy moves in slices, each begun only when the link is idle, so an urgent copy waits for one
slice at most (spec of the replay engine: demand load > prefetch; write-back has the other direction to
itself).
"""

from __future__ import annotations

from collections.abc import Callable

SLICE_BYTES = 64 << 20


class Link:
    """Serves copies one after another. ``seconds(num_bytes, other_busy)`` is one copy's service time."""

    def __init__(self, seconds: Callable[[int, bool], float]) -> None:
        self._seconds = seconds
        self._slice_end_s = 0.0  # of the last background slice
        self.free_at_s = 0.0
        self.busy_s = 0.0
        self.num_bytes = 0
        self.num_delayed = 0  # urgent copies that found a background slice in service …
        self.delayed_s = 0.0  # … and how long they waited for its end
        self.other: Link | None = None

    def is_busy_at(self, at_s: float) -> bool:
        return self.free_at_s > at_s

    def submit(self, num_bytes: int, now_s: float) -> tuple[float, float]:
        """Queue an urgent copy behind the urgent ones before it: (start, end) in seconds."""
        if self._slice_end_s > now_s:
            self.num_delayed += 1
            self.delayed_s += self._slice_end_s - now_s
        start_s = max(now_s, self.free_at_s)
        return start_s, self._serve(num_bytes, start_s)

    def serve_slice(self, num_bytes: int, now_s: float) -> float:
        """Begin a slice of a background copy on the idle link; when it ends."""
        self._slice_end_s = self._serve(num_bytes, now_s)
        return self._slice_end_s

    def _serve(self, num_bytes: int, start_s: float) -> float:
        contended = self.other is not None and self.other.is_busy_at(start_s)
        service_s = self._seconds(num_bytes, contended)
        self.busy_s += service_s
        self.num_bytes += num_bytes
        self.free_at_s = start_s + service_s
        return self.free_at_s
