"""What a policy's decisions cost on this machine: wall time by kind, measured while a cell runs.

Kinds are those of the paper's table 4. Measuring costs time itself (about 0.2 µs a decision); cells whose
own speed matters are run without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.tree import Node


class Overheads:
    """Times the decisions of ``manager`` from now on."""

    def __init__(self, manager: CacheManager) -> None:
        self._samples_s: dict[str, list[float]] = {}
        tiers, predictor = manager.tiers, manager.policy.predictor
        tiers.evict_until = self._timed("eviction decision", tiers.evict_until)  # type: ignore[method-assign]
        tiers.rescored = self._timed_a_node(tiers.rescored)  # type: ignore[assignment, method-assign]
        if predictor is not None:
            predictor.forecast = self._timed("prediction", predictor.forecast)  # type: ignore[method-assign]
        if manager.policy.prefetch is not None:
            manager.prefetch = self._timed("prefetch decision", manager.prefetch)  # type: ignore[method-assign]

    def to_dict(self) -> dict[str, dict[str, float]]:
        """By kind: how many, mean and 99th percentile in seconds."""
        found = {}
        for kind, samples in self._samples_s.items():
            if samples:
                p99_s = float(np.quantile(samples, 0.99))
                found[kind] = {"num": len(samples), "mean_s": float(np.mean(samples)), "p99_s": p99_s}
        return found

    def _timed(self, kind: str, decide: Callable[..., Any]) -> Callable[..., Any]:
        samples = self._samples_s.setdefault(kind, [])

        def timed(*arguments: Any) -> Any:
            started_s = perf_counter()
            decision = decide(*arguments)
            samples.append(perf_counter() - started_s)
            return decision

        return timed

    def _timed_a_node(self, rescored: Callable[[Sequence[Node]], None]) -> Callable[[Sequence[Node]], None]:
        samples = self._samples_s.setdefault("score update of a node", [])

        def timed(nodes: Sequence[Node]) -> None:
            started_s = perf_counter()
            rescored(nodes)
            if nodes:
                samples.append((perf_counter() - started_s) / len(nodes))

        return timed
