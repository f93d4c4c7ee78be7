"""PBKV: retired entries go first, then by recency (LAE) or by expected reuse (HE). Paper §4.2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pbkv.predict.forecast import survival
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.cache.activity import Activity, Weights
    from pbkv.cache.tree import Node
    from pbkv.predict.forecast import Forecast


class RetiredFirst:
    """LAE: what no active workflow has touched goes first, the least shared of it before; then LRU."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self.queued = activity.queued

    def key(self, node: Node) -> tuple[bool, float, float]:
        if self._activity.is_retired(node):
            return False, node.num_workflows, node.last_access_s
        return True, node.last_access_s, 0.0


class ExpectedReuse:
    """HE: retired entries as in LAE, then active ones by ascending score (eq. 2), ties by depth and LRU."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self.queued = activity.queued

    def key(self, node: Node) -> tuple[bool, float, float, float]:
        score = self._activity.score(node)
        if score is None:
            return False, node.num_workflows, -node.end, node.last_access_s
        return True, score, -node.end, node.last_access_s


class DiscountedReuse:
    """A forecast's weight for each agent: Σ over k of γ^(k−1) · s^(k) · P^(k) (eq. 2)."""

    def __init__(self, gamma: float = 0.7) -> None:
        if not 0 <= gamma <= 1:
            raise ConfigError("gamma", gamma, "a number from 0 to 1")
        self._gamma = gamma

    def __call__(self, forecast: Forecast) -> Weights:
        discounts = self._gamma ** np.arange(len(forecast))
        weights: Weights = (discounts * survival(forecast)) @ forecast[:, :-1]
        return weights
