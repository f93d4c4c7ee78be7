"""The real clock of a replay: how long it has been since the engine's last boundary."""

from __future__ import annotations

from time import perf_counter


class Pace:
    """Laps of the machine's clock. An iteration's lap holds the scheduling before it."""

    def __init__(self) -> None:
        self._mark_s = perf_counter()

    @property
    def since_s(self) -> float:
        """Seconds of the lap so far."""
        return perf_counter() - self._mark_s

    def lap(self) -> float:
        """Seconds since the last lap's end; the next begins."""
        now_s = perf_counter()
        elapsed_s, self._mark_s = now_s - self._mark_s, now_s
        return elapsed_s
