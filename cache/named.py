"""Policies by name: which parts each is composed of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pbkv.cache.activity import Activity, TimedActivity
from pbkv.cache.admission import AllAdmit, CapacityAdmission
from pbkv.cache.arrivals import Arrivals
from pbkv.cache.belady import Belady, CostAwareBelady
from pbkv.cache.eviction import EvictionOrder, Fifo, Lfu, Lru, Random, Slru
from pbkv.cache.future import make_future
from pbkv.cache.inheritance import LearnedInheritance, make_inheritance
from pbkv.cache.known import NOTHING_KNOWN, Known
from pbkv.cache.kvflow import PassOverLoading
from pbkv.cache.patience import Patience
from pbkv.cache.pbkv import (
    AggressivePrefetch,
    ConservativePrefetch,
    DiscountedReuse,
    ExpectedReuse,
    RetiredFirst,
)
from pbkv.cache.plugin import plugged_policy
from pbkv.cache.policy import Policy, PolicyOptions
from pbkv.cache.rivals import RIVALS, fixed_ttl
from pbkv.cache.warm import LikelyLast, SilentActivity, WarmFirst
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.cache.follower import Follower
    from pbkv.cache.scheduling import AdmissionRule
    from pbkv.predict.forecast import Predictor

INFINITE = "infinite"  # LRU in a cache that `capacity_of` makes too large to evict
_UNBOUNDED_BLOCKS = 2**40
_DEFAULTS = PolicyOptions()


def make_policy(
    name: str, seed: int = 0, options: PolicyOptions = _DEFAULTS, known: Known = NOTHING_KNOWN
) -> Policy:
    """The policy called ``name``, with state of its own. Raises ConfigError for one that is not known.

    ``name`` is one of `POLICIES`, ``file.py:Class`` or the name of an installed entry point, each with any
    of `PARTS` behind it: ``lru+admission``. A bound (`BOUNDS`) takes no parts, but for the infinite cache;
    those among `ORACLES` read the future from ``known``, without one they are LRU.
    """
    base, parts = _parts_of(name)
    if parts and base in BOUNDS and base != INFINITE:
        raise ConfigError("policy", name, f"{base} alone")
    policy = _base(base, seed, options, known)
    for part in sorted(parts, key=lambda part: part != "prefetch"):  # which begins anew
        policy = _PARTS[part](base, policy, options, known)
    return policy


def _parts_of(name: str) -> tuple[str, list[str]]:
    base, parts = name, list[str]()
    while "+" in base and base.rpartition("+")[2] in _PARTS:
        base, _, part = base.rpartition("+")
        parts.insert(0, part)
    if len(set(parts)) < len(parts):
        raise ConfigError("policy", name, "each part once")
    return base, parts


def _base(name: str, seed: int, options: PolicyOptions, known: Known) -> Policy:
    if name in _PLAIN:
        return Policy(_PLAIN[name](seed), _PLAIN[name](seed))
    if name in _FOLLOWING:
        return _FOLLOWING[name](options)
    if name in _READING:
        return _READING[name](known)
    if name in _COSTED:
        return _COSTED[name](options, known)
    if name in RIVALS:
        return RIVALS[name](options)
    if name.startswith("ttl:"):
        return fixed_ttl(name)
    plugged = plugged_policy(name, seed, options)
    if plugged is None:
        names = ", ".join((*POLICIES, "ttl:SECONDS", "FILE.py:CLASS"))
        raise ConfigError(
            "policy", name, f"one of {names}, with {' or '.join('+' + p for p in PARTS)} or not"
        )
    return plugged


# ---------------------------------------------------------------------- compositions


def capacity_of(name: str, gpu_blocks: int, host_blocks: int) -> tuple[int, int]:
    """The tiers' sizes under the policy called ``name``: as given, but for the infinite cache.

    That one has room on the GPU for all that ever comes, and nothing to copy to the host.
    """
    return (_UNBOUNDED_BLOCKS, 0) if _parts_of(name)[0] == INFINITE else (gpu_blocks, host_blocks)


def _lae(options: PolicyOptions) -> Policy:
    activity = _activity(options, None)
    return Policy(RetiredFirst(), RetiredFirst(), (activity,))


def _he(options: PolicyOptions) -> Policy:
    return _pbkv(options, None)


def _full(options: PolicyOptions) -> Policy:
    return _pbkv(options, ConservativePrefetch)


def _aggressive(options: PolicyOptions) -> Policy:
    return _pbkv(options, lambda activity: AggressivePrefetch(activity, options.rho))


def _pbkv(options: PolicyOptions, prefetch: Callable[[Activity], ConservativePrefetch] | None) -> Policy:
    predictor = options.make_predictor()
    activity = _activity(options, predictor)
    host_order = RetiredFirst() if options.host_order == "retired-first" else ExpectedReuse(activity)
    ahead = None if prefetch is None else prefetch(activity)
    return Policy(ExpectedReuse(activity), host_order, (activity,), ahead, predictor=predictor)


def _warm_first(options: PolicyOptions, known: Known) -> Policy:
    predictor, arrivals = options.make_predictor(), Arrivals()
    activity = SilentActivity(predictor, LearnedInheritance(), options.idle_timeout_s)
    order, rule = WarmFirst(arrivals, known), Patience(activity, arrivals, known)
    followers = activity, arrivals, order, rule
    gpu_order, host_order = LikelyLast(activity), LikelyLast(activity)
    return Policy(gpu_order, host_order, followers, None, rule, order, predictor)


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


# ---------------------------------------------------------------------- parts


def _with_admission(base: str, policy: Policy, options: PolicyOptions, known: Known) -> Policy:
    return _admitting(policy, rule := CapacityAdmission(options.pause_limit_s), rule)


def _with_status(base: str, policy: Policy, options: PolicyOptions, known: Known) -> Policy:
    return _admitting(policy, PassOverLoading())


def _warm(base: str, policy: Policy, options: PolicyOptions, known: Known) -> Policy:
    order = WarmFirst(arrivals := Arrivals(), known)
    return replace(policy, followers=(*policy.followers, arrivals, order), request_order=order)


def _admitting(policy: Policy, rule: AdmissionRule, *followers: Follower) -> Policy:
    both = rule if policy.admission is None else AllAdmit(policy.admission, rule)
    return replace(policy, admission=both, followers=(*policy.followers, *followers))


def _with_prefetch(base: str, policy: Policy, options: PolicyOptions, known: Known) -> Policy:
    """PBKV's conservative prefetch, where nothing else tags nodes."""
    if base == "pbkv-he":
        return _full(options)
    if base not in ("lae", *_PLAIN, "gdsf", "s3-fifo", "sieve"):
        raise ConfigError("policy", f"{base}+prefetch", "a policy without tags of its own: lru, lae, …")
    predictor = options.make_predictor()
    activity = _activity(options, predictor)
    ahead = ConservativePrefetch(activity)
    if base == "lae":
        return Policy(RetiredFirst(), RetiredFirst(), (activity,), ahead, predictor=predictor)
    return replace(policy, followers=(*policy.followers, activity), prefetch=ahead, predictor=predictor)


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
_COSTED: dict[str, Callable[[PolicyOptions, Known], Policy]] = {"warm-first": _warm_first}
ORACLES = tuple(_READING)  # want to be told the future
BOUNDS = (INFINITE, *ORACLES, "pbkv-he-oracle", "pbkv-oracle")
_PARTS: dict[str, Callable[[str, Policy, PolicyOptions, Known], Policy]] = {
    "admission": _with_admission,
    "prefetch": _with_prefetch,
    "status": _with_status,
    "warm": _warm,
}
POLICIES = (*_PLAIN, *_FOLLOWING, *_COSTED, *RIVALS, *_READING)
PARTS = tuple(_PARTS)
