"""The real clock of a replay: how long it has been since the engine's last boundary."""

from __future__ import annotations

from time import perf_counter


class Pace:
    """Laps of the machine's clock. An iteration's lap holds the scheduling before it."""

    def __init__(self) -> None:
        self._mark_s = self.now_s

    @property
    def now_s(self) -> float:
        """The machine's clock, whose zero means nothing."""
        return perf_counter()

    @property
    def since_s(self) -> float:
        """Seconds of the lap so far."""
        return self.now_s - self._mark_s

    def lap(self) -> float:
        """Seconds since the last lap's end; the next begins."""
        now_s = self.now_s
        elapsed_s, self._mark_s = now_s - self._mark_s, now_s
        return elapsed_s
