"""Policies by name: which parts each is composed of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pbkv.cache.activity import Activity, TimedActivity
from pbkv.cache.belady import Belady, CostAwareBelady
from pbkv.cache.eviction import EvictionOrder, Fifo, Lfu, Lru, Random, Slru
from pbkv.cache.future import make_future
from pbkv.cache.inheritance import make_inheritance
from pbkv.cache.known import NOTHING_KNOWN, Known
from pbkv.cache.pbkv import (
    AggressivePrefetch,
    ConservativePrefetch,
    DiscountedReuse,
    ExpectedReuse,
    RetiredFirst,
)
from pbkv.cache.policy import Policy, PolicyOptions
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.predict.forecast import Predictor

INFINITE = "infinite"  # LRU in a cache that `capacity_of` makes too large to evict
_UNBOUNDED_BLOCKS = 2**40
_DEFAULTS = PolicyOptions()


def make_policy(
    name: str, seed: int = 0, options: PolicyOptions = _DEFAULTS, known: Known = NOTHING_KNOWN
) -> Policy:
    """The policy called ``name``, with state of its own. Raises ConfigError for an unknown name.

    A bound (`ORACLES`) reads the future from ``known``; without one it is LRU.
    """
    if name in _PLAIN:
        return Policy(_PLAIN[name](seed), _PLAIN[name](seed))
    if name in _FOLLOWING:
        return _FOLLOWING[name](options)
    if name in _READING:
        return _READING[name](known)
    raise ConfigError("policy", name, "one of " + ", ".join(POLICIES))


def capacity_of(name: str, gpu_blocks: int, host_blocks: int) -> tuple[int, int]:
    """The tiers' sizes under the policy called ``name``: as given, but for the infinite cache.

    That one has room on the GPU for all that ever comes, and nothing to copy to the host.
    """
    return (_UNBOUNDED_BLOCKS, 0) if name == INFINITE else (gpu_blocks, host_blocks)


def _lae(options: PolicyOptions) -> Policy:
    activity = _activity(options, None)
    return Policy(RetiredFirst(activity), RetiredFirst(activity), (activity,))


def _he(options: PolicyOptions) -> Policy:
    return _pbkv(options, None)


def _full(options: PolicyOptions) -> Policy:
    return _pbkv(options, ConservativePrefetch)


def _aggressive(options: PolicyOptions) -> Policy:
    return _pbkv(options, lambda activity: AggressivePrefetch(activity, options.rho))


def _pbkv(options: PolicyOptions, prefetch: Callable[[Activity], ConservativePrefetch] | None) -> Policy:
    predictor = options.make_predictor()
    activity = _activity(options, predictor)
    host_order = RetiredFirst if options.host_order == "retired-first" else ExpectedReuse
    ahead = None if prefetch is None else prefetch(activity)
    return Policy(ExpectedReuse(activity), host_order(activity), (activity,), ahead, predictor=predictor)


def _he_oracle(options: PolicyOptions) -> Policy:
    return _he(replace(options, predictor="oracle"))


def _full_oracle(options: PolicyOptions) -> Policy:
    return _full(replace(options, predictor="oracle"))


def _belady(known: Known) -> Policy:
    future = make_future(known.uses)
    return Policy(Belady(future, not known.whole_nodes), Belady(future, by_block=False), (future,))


def _belady_cost(known: Known) -> Policy:
    future = make_future(known.uses)
    gpu_order, host_order = (
        CostAwareBelady(future, by_block, known) for by_block in (not known.whole_nodes, False)
    )
    return Policy(gpu_order, host_order, (future,))


def _activity(options: PolicyOptions, predictor: Predictor | None) -> Activity:
    weigh, inheritance = DiscountedReuse(options.gamma), make_inheritance(options.inherit)
    if options.idle_timeout_s == float("inf") and not options.forecast_delay_s:
        return Activity(predictor, weigh, inheritance)
    return TimedActivity(
        predictor,
        weigh,
        inheritance,
        idle_timeout_s=options.idle_timeout_s,
        forecast_delay_s=options.forecast_delay_s,
    )


_PLAIN: dict[str, Callable[[int], EvictionOrder]] = {
    "lru": lambda seed: Lru(),
    "fifo": lambda seed: Fifo(),
    "lfu": lambda seed: Lfu(),
    "slru": lambda seed: Slru(),
    "random": Random,
    INFINITE: lambda seed: Lru(),
}
_FOLLOWING: dict[str, Callable[[PolicyOptions], Policy]] = {
    "lae": _lae,
    "pbkv-he": _he,
    "pbkv": _full,
    "pbkv-aggressive": _aggressive,
    "pbkv-he-oracle": _he_oracle,
    "pbkv-oracle": _full_oracle,
}
_READING: dict[str, Callable[[Known], Policy]] = {"belady": _belady, "belady-cost": _belady_cost}
ORACLES = tuple(_READING)  # want to be told the future
POLICIES = (*_PLAIN, *_FOLLOWING, *_READING)
