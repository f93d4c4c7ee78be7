"""What a policy's decisions cost on this machine: wall time by kind, measured while a cell runs.

Kinds are those of the paper's table 4. A prefetch decision counts where one was due (its budget was not 0).
A prediction is what a call costs the simulator: with the network that is a look-up but for a workflow's
first call, which computes them all in one pass. Measuring costs time itself (about 0.2 µs a decision);
cells whose own speed matters are run without. None of it is charged to simulated time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pbkv.cache.decisions import Load
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.prefetch import Situation
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
            manager.prefetch = self._timed_if_due(manager)  # type: ignore[assignment, method-assign]

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

    def _timed_if_due(self, manager: CacheManager) -> Callable[[Situation, float], list[Load]]:
        samples, decide = self._samples_s.setdefault("prefetch decision", []), manager.prefetch
        prefetch = manager.policy.prefetch

        def timed(situation: Situation, now_s: float) -> list[Load]:
            is_due = prefetch is not None and prefetch.budget(situation) > 0
            started_s = perf_counter()
            loads = decide(situation, now_s)
            if is_due:
                samples.append(perf_counter() - started_s)
            return loads

        return timed

    def _timed_a_node(self, rescored: Callable[[Sequence[Node]], None]) -> Callable[[Sequence[Node]], None]:
        samples = self._samples_s.setdefault("score update of a node", [])

        def timed(nodes: Sequence[Node]) -> None:
            started_s = perf_counter()
            rescored(nodes)
            if nodes:
                samples.append((perf_counter() - started_s) / len(nodes))

        return timed
