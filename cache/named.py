"""Policies by name: which parts each is composed of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pbkv.cache.activity import Activity, TimedActivity
from pbkv.cache.eviction import EvictionOrder, Fifo, Lfu, Lru, Random, Slru
from pbkv.cache.inheritance import make_inheritance
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

_DEFAULTS = PolicyOptions()


def make_policy(name: str, seed: int = 0, options: PolicyOptions = _DEFAULTS) -> Policy:
    """The policy called ``name``, with state of its own. Raises ConfigError for an unknown name."""
    if name in _PLAIN:
        return Policy(_PLAIN[name](seed), _PLAIN[name](seed))
    if name in _FOLLOWING:
        return _FOLLOWING[name](options)
    raise ConfigError("policy", name, "one of " + ", ".join(POLICIES))


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
}
_FOLLOWING: dict[str, Callable[[PolicyOptions], Policy]] = {
    "lae": _lae,
    "pbkv-he": _he,
    "pbkv": _full,
    "pbkv-aggressive": _aggressive,
}
POLICIES = (*_PLAIN, *_FOLLOWING)
