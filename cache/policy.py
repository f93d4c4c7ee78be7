"""Policies by name: what is evicted first on each tier, and who is told of what the workflows do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pbkv.cache.activity import Activity
from pbkv.cache.eviction import EvictionOrder, Fifo, Lfu, Lru, Random, Slru
from pbkv.cache.pbkv import DiscountedReuse, ExpectedReuse, RetiredFirst
from pbkv.predict.named import named_predictor
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.predict.forecast import Predictor


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What policies that predict want to know: predictor (`pbkv.predict.named`), steps K, γ, noise λ."""

    predictor: str = "markov:3"
    num_steps: int = 3
    gamma: float = 0.7
    noise: float = 0.0

    def make_predictor(self) -> Predictor:
        """A new one, as it learns. Raises ConfigError."""
        return named_predictor(self.predictor, self.num_steps, self.noise)


@dataclass(frozen=True, slots=True)
class Policy:
    """A composition: an eviction order for each tier, and what follows workflows for them, if need be."""

    gpu_order: EvictionOrder
    host_order: EvictionOrder
    activity: Activity | None = None


def make_policy(name: str, seed: int = 0, options: PolicyOptions = PolicyOptions()) -> Policy:
    """The policy called ``name``, with state of its own. Raises ConfigError for an unknown name."""
    if name in _PLAIN:
        return Policy(_PLAIN[name](seed), _PLAIN[name](seed))
    if name == "lae":
        activity = Activity(None, DiscountedReuse())
        return Policy(RetiredFirst(activity), RetiredFirst(activity), activity)
    if name == "pbkv-he":
        activity = Activity(options.make_predictor(), DiscountedReuse(options.gamma))
        return Policy(ExpectedReuse(activity), RetiredFirst(activity), activity)
    raise ConfigError("policy", name, "one of " + ", ".join(POLICIES))


_PLAIN: dict[str, Callable[[int], EvictionOrder]] = {
    "lru": lambda seed: Lru(),
    "fifo": lambda seed: Fifo(),
    "lfu": lambda seed: Lfu(),
    "slru": lambda seed: Slru(),
    "random": Random,
}
POLICIES = (*_PLAIN, "lae", "pbkv-he")
