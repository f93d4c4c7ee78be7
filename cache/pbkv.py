"""PBKV (arXiv 2605.06472): retired entries go first, then by recency (LAE) or by expected reuse (HE);
what the next call is likely to read is copied up ahead (full), at the cost of retired entries alone or,
aggressively, of active ones too. Paper §4.2, §4.3, appendix E.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.cache.activity import Activity, Weights
    from pbkv.cache.prefetch import Situation
    from pbkv.cache.tiers import Tiers
    from pbkv.cache.tree import Node
    from pbkv.predict.forecast import Forecast


class RetiredFirst:
    """LAE: what no active workflow has touched goes first, the least shared of it before; then LRU.

    Needs an `Activity` that follows workflows. Keys fall when one ends, and then all that it has touched is
    looked at: no entry need be noted for that.
    """

    def queued(self, node: Node) -> None:
        """Keys can fall."""

    def key(self, node: Node) -> tuple[bool, float, float]:
        if node.tags:
            return True, node.last_access_s, 0.0
        return False, node.num_workflows, node.last_access_s


class ExpectedReuse:
    """HE: retired entries first, then active ones by ascending score (eq. 2); ties by depth, then LRU.

    Among retired entries, too, the deeper goes first where as many workflows have touched both; LAE, which
    is LRU below its first level, takes the least recently used.
    """

    def __init__(self, activity: Activity) -> None:
        self._score = activity.score
        self.queued = activity.queued

    def key(self, node: Node) -> tuple[bool, float, float, float]:
        if node.tags:
            return True, self._score(node), -node.end, node.last_access_s
        return False, node.num_workflows, -node.end, node.last_access_s


class ConservativePrefetch:
    """Full: the highest one-step value first, into free space and the place of retired entries.

    Only while the batch is pure decode, one batch of copies at a time, each small enough to hide behind
    a decode iteration (paper §4.3).
    """

    def __init__(self, activity: Activity) -> None:
        self._value = activity.value
        self.queued = activity.queued

    def key(self, node: Node) -> tuple[float, int, float]:
        return -self._value(node), node.end, -node.last_access_s

    def wants(self, node: Node) -> bool:
        return self._value(node) > 0

    def budget(self, situation: Situation) -> int:
        may = situation.is_pure_decode and not situation.num_in_flight
        return situation.step_blocks if may else 0

    def displaceable(self, tiers: Tiers) -> Callable[[Node], bool]:
        return _is_retired


class AggressivePrefetch(ConservativePrefetch):
    """A decision may also displace up to a share ρ of the active cache, lowest score first (appendix E).

    ρ counts anew at each decision, and a decision is bounded by S_bw as well: where what one iteration
    hides is less than ρ of the cache, ρ does not bind. What is displaced may be what is fetched next.
    """

    def __init__(self, activity: Activity, active_ratio: float) -> None:
        super().__init__(activity)
        if not 0 <= active_ratio <= 1:
            raise ConfigError("rho", active_ratio, "a share from 0 to 1")
        self._active_ratio = active_ratio

    def displaceable(self, tiers: Tiers) -> Callable[[Node], bool]:
        left = int(self._active_ratio * tiers.tree.gpu_blocks)  # once it counts, nothing retired is left

        def may_go(victim: Node) -> bool:
            nonlocal left
            if victim.tags:
                left -= victim.num_blocks
            return left >= 0

        return may_go


def _is_retired(victim: Node) -> bool:
    return not victim.tags


class DiscountedReuse:
    """A forecast's weight for each agent: Σ over k of γ^(k−1) · s^(k) · P^(k) (eq. 2)."""

    def __init__(self, gamma: float = 0.7) -> None:
        if not 0 <= gamma <= 1:
            raise ConfigError("gamma", gamma, "a number from 0 to 1")
        self._gamma = gamma

    def __call__(self, forecast: Forecast) -> Weights:
        factors, factor = [], 1.0  # in plain floats: a fifth of the time for the few steps that there are
        for ended in forecast[:, -1].tolist():
            factors.append(factor)
            factor *= self._gamma * (1.0 - ended)
        weights: Weights = np.array(factors) @ forecast[:, :-1]
        return weights
