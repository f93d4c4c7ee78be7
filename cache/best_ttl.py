"""How long to pin: a fixed time, or τ* from the waits seen so far (Continuum, arXiv 2511.02230; `ttl`)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbkv.cache.config import CacheConfig
    from pbkv.cache.policy import PrefillCost

_FIRST_TTL_S = 2.0
_FEWEST_WAITS = 100
_MOST_WAITS = 256


class FixedTtl:
    """The same τ for all."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def ttl_s(self, agent: str, num_blocks: int) -> float:
        return self._seconds

    def begun(self, config: CacheConfig) -> None:
        """Nothing depends on sizes."""

    def queued(self, wait_s: float, num_blocks: int) -> None:
        """Nothing is learnt from waits in the queue."""

    def waited(self, agent: str, wait_s: float) -> None:
        """Nothing is learnt from waits for tools."""

    def ended(self, num_calls: int) -> None:
        """Nothing is learnt from lengths."""


class _Waits:
    """The last waits after one agent, and the same sorted."""

    def __init__(self) -> None:
        self._last: deque[float] = deque()
        self.rising: list[float] = []

    def add(self, wait_s: float) -> None:
        if len(self._last) == _MOST_WAITS:
            del self.rising[bisect_left(self.rising, self._last.popleft())]
        self._last.append(wait_s)
        insort(self.rising, wait_s)


class BestTtl(FixedTtl):
    """τ* from what has been seen so far."""

    def __init__(self, cost: PrefillCost) -> None:
        super().__init__(_FIRST_TTL_S)
        self._cost = cost
        self._waits: dict[str, _Waits] = {}
        self._all = _Waits()
        self._queued_s = self._queued_blocks = 0.0
        self._lengths = _Lengths()

    def begun(self, config: CacheConfig) -> None:
        self._gpu_blocks, self._has_host = config.gpu_blocks, config.host_blocks > 0

    def queued(self, wait_s: float, num_blocks: int) -> None:
        self._queued_s += wait_s
        self._queued_blocks += num_blocks

    def waited(self, agent: str, wait_s: float) -> None:
        self._waits.setdefault(agent, _Waits()).add(wait_s)
        self._all.add(wait_s)

    def ended(self, num_calls: int) -> None:
        self._lengths.add(num_calls)

    def ttl_s(self, agent: str, num_blocks: int) -> float:
        waits = self._waits.get(agent, self._all).rising
        if len(waits) < _FEWEST_WAITS:
            waits = self._all.rising
        if not waits:
            return self._seconds
        gain_s, share = self._gain_s(num_blocks) / len(waits), num_blocks / self._gpu_blocks
        best, best_s = 0.0, 0.0
        for number, wait_s in enumerate(waits, 1):
            if (value := number * gain_s - share * wait_s) > best:
                best, best_s = value, wait_s
        return best_s

    def _gain_s(self, num_blocks: int) -> float:
        queue_s = self._queued_s / max(self._queued_blocks, 1) * num_blocks
        reload_s = self._cost.of(0, num_blocks)
        if self._has_host:
            reload_s = min(reload_s, num_blocks * self._cost.load_block_s)
        return queue_s * self._lengths.regularity() + reload_s


class _Lengths:
    """Sums over all calls of ended workflows, for the correlation of calls done with calls left."""

    def __init__(self) -> None:
        self._number = self._done = self._left = self._done2 = self._left2 = self._both = 0

    def add(self, num_calls: int) -> None:
        for done in range(1, num_calls + 1):
            left = num_calls - done
            self._number += 1
            self._done += done
            self._left += left
            self._done2 += done * done
            self._left2 += left * left
            self._both += done * left

    def regularity(self) -> float:
        """η, from 0 to 1."""
        n = self._number
        spread = (n * self._done2 - self._done**2) * (n * self._left2 - self._left**2)
        if spread <= 0:
            return 0.0
        correlation: float = (n * self._both - self._done * self._left) / spread**0.5
        return min(max(-correlation, 0.0), 1.0)
