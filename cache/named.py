"""Policies by name: which parts each is composed of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pbkv.cache.activity import Activity, TimedActivity
from pbkv.cache.admission import AllAdmit, CapacityAdmission
from pbkv.cache.best_ttl import BestTtl, FixedTtl
from pbkv.cache.eviction import EvictionOrder, Fifo, Lfu, Lru, Random, Slru
from pbkv.cache.gdsf import Gdsf
from pbkv.cache.inheritance import make_inheritance
from pbkv.cache.kvflow import FarthestFirst, NextPrompts, PassOverLoading, StepsToExecution
from pbkv.cache.kvflow_context import ContextSteps
from pbkv.cache.mori import IdleFirst, Idleness
from pbkv.cache.pbkv import (
    AggressivePrefetch,
    ConservativePrefetch,
    DiscountedReuse,
    ExpectedReuse,
    RetiredFirst,
)
from pbkv.cache.plugin import plugged_policy
from pbkv.cache.policy import Policy, PolicyOptions
from pbkv.cache.s3_fifo import S3Fifo
from pbkv.cache.sieve import Sieve
from pbkv.cache.ttl import InTimeFirst, Pins, UnpinnedFirst
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.cache.follower import Follower
    from pbkv.cache.scheduling import AdmissionRule

_DEFAULTS = PolicyOptions()


def make_policy(name: str, seed: int = 0, options: PolicyOptions = _DEFAULTS) -> Policy:
    """The policy called ``name``, with state of its own. Raises ConfigError for one that is not known.

    ``name`` is one of `POLICIES`, ``file.py:Class`` or the name of an installed entry point, each with any
    of `PARTS` behind it: ``lru+admission``.
    """
    base, parts = _parts_of(name)
    policy = _base(base, seed, options)
    for part in sorted(parts, key=lambda part: part != "prefetch"):  # which begins anew
        policy = _PARTS[part](base, policy, options)
    return policy


def _parts_of(name: str) -> tuple[str, list[str]]:
    base, parts = name, list[str]()
    while "+" in base and base.rpartition("+")[2] in _PARTS:
        base, _, part = base.rpartition("+")
        parts.insert(0, part)
    if len(set(parts)) < len(parts):
        raise ConfigError("policy", name, "each part once")
    return base, parts


def _base(name: str, seed: int, options: PolicyOptions) -> Policy:
    kind, _, argument = name.partition(":")
    if name in _PLAIN:
        return Policy(_PLAIN[name](seed), _PLAIN[name](seed))
    if name in _FOLLOWING:
        return _FOLLOWING[name](options)
    if kind == "ttl":
        return _ttl(FixedTtl(_seconds(name, argument)))
    plugged = plugged_policy(name, seed, options)
    if plugged is None:
        known = ", ".join((*POLICIES, "ttl:SECONDS", "FILE.py:CLASS"))
        raise ConfigError(
            "policy", name, f"one of {known}, with {' or '.join('+' + p for p in PARTS)} or not"
        )
    return plugged


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError("policy", name, "ttl:SECONDS, a finite number ≥ 0")
    return seconds


# ---------------------------------------------------------------------- compositions


def _lae(options: PolicyOptions) -> Policy:
    activity = _activity(options, predicts=False)
    return Policy(RetiredFirst(activity), RetiredFirst(activity), (activity,))


def _he(options: PolicyOptions) -> Policy:
    return _pbkv(options, None)


def _full(options: PolicyOptions) -> Policy:
    return _pbkv(options, ConservativePrefetch)


def _aggressive(options: PolicyOptions) -> Policy:
    return _pbkv(options, lambda activity: AggressivePrefetch(activity, options.rho))


def _pbkv(options: PolicyOptions, prefetch: Callable[[Activity], ConservativePrefetch] | None) -> Policy:
    activity = _activity(options, predicts=True)
    host_order = RetiredFirst if options.host_order == "retired-first" else ExpectedReuse
    ahead = None if prefetch is None else prefetch(activity)
    return Policy(ExpectedReuse(activity), host_order(activity), (activity,), ahead)


def _kvflow(options: PolicyOptions) -> Policy:
    return _of_kvflow(evicts=True, prefetches=True, passes_over=True)


def _kvflow_evict(options: PolicyOptions) -> Policy:
    return _of_kvflow(evicts=True, prefetches=False, passes_over=False)


def _kvflow_prefetch(options: PolicyOptions) -> Policy:
    return _of_kvflow(evicts=False, prefetches=True, passes_over=True)


def _kvflow_no_status(options: PolicyOptions) -> Policy:
    return _of_kvflow(evicts=True, prefetches=True, passes_over=False)


def _kvflow_context(options: PolicyOptions) -> Policy:
    followed = ContextSteps()
    orders = FarthestFirst(followed), FarthestFirst(followed)
    return Policy(*orders, (followed,), NextPrompts(followed), PassOverLoading())


def _of_kvflow(*, evicts: bool, prefetches: bool, passes_over: bool) -> Policy:
    followed = StepsToExecution()
    return Policy(
        gpu_order=FarthestFirst(followed) if evicts else Lru(),
        host_order=FarthestFirst(followed) if evicts else Lru(),
        followers=(followed,),
        prefetch=NextPrompts(followed) if prefetches else None,
        admission=PassOverLoading() if passes_over else None,
    )


def _best_ttl(options: PolicyOptions) -> Policy:
    return _ttl(BestTtl(options.prefill_cost))


def _ttl(ttl: FixedTtl) -> Policy:
    pins = Pins(ttl)
    return Policy(UnpinnedFirst(pins), Lru(), (pins,), request_order=InTimeFirst(pins))


def _mori(options: PolicyOptions) -> Policy:
    idleness = Idleness()
    return Policy(IdleFirst.on_gpu(idleness), IdleFirst.on_host(idleness), (idleness,))


def _gdsf(options: PolicyOptions) -> Policy:
    gpu, host = Gdsf(options.prefill_cost), Gdsf(options.prefill_cost)
    return Policy(gpu, host, (gpu, host))


def _sieve(options: PolicyOptions) -> Policy:
    gpu, host = Sieve(), Sieve()
    return Policy(gpu, host, (gpu, host))


def _s3_fifo(options: PolicyOptions) -> Policy:
    gpu, host = S3Fifo(is_host=False), S3Fifo(is_host=True)
    return Policy(gpu, host, (gpu, host))


# ---------------------------------------------------------------------- parts


def _with_admission(base: str, policy: Policy, options: PolicyOptions) -> Policy:
    return _admitting(policy, rule := CapacityAdmission(options.pause_limit_s), rule)


def _with_status(base: str, policy: Policy, options: PolicyOptions) -> Policy:
    return _admitting(policy, PassOverLoading())


def _admitting(policy: Policy, rule: AdmissionRule, *followers: Follower) -> Policy:
    both = rule if policy.admission is None else AllAdmit(policy.admission, rule)
    return replace(policy, admission=both, followers=(*policy.followers, *followers))


def _with_prefetch(base: str, policy: Policy, options: PolicyOptions) -> Policy:
    """PBKV's conservative prefetch, where nothing else tags nodes."""
    if base == "pbkv-he":
        return _full(options)
    if base == "lae":
        activity = _activity(options, predicts=True)
        orders = RetiredFirst(activity), RetiredFirst(activity)
        return Policy(*orders, (activity,), ConservativePrefetch(activity))
    if base not in (*_PLAIN, "gdsf", "s3-fifo", "sieve"):
        raise ConfigError("policy", f"{base}+prefetch", "a policy without tags of its own: lru, lae, …")
    activity = _activity(options, predicts=True)
    ahead = ConservativePrefetch(activity)
    return replace(policy, followers=(*policy.followers, activity), prefetch=ahead)


def _activity(options: PolicyOptions, predicts: bool) -> Activity:
    predictor = options.make_predictor() if predicts else None
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
    "kvflow": _kvflow,
    "kvflow-evict": _kvflow_evict,
    "kvflow-prefetch": _kvflow_prefetch,
    "kvflow-no-status": _kvflow_no_status,
    "kvflow-context": _kvflow_context,
    "ttl": _best_ttl,
    "mori": _mori,
    "gdsf": _gdsf,
    "s3-fifo": _s3_fifo,
    "sieve": _sieve,
}
_PARTS: dict[str, Callable[[str, Policy, PolicyOptions], Policy]] = {
    "admission": _with_admission,
    "prefetch": _with_prefetch,
    "status": _with_status,
}
POLICIES = (*_PLAIN, *_FOLLOWING)
PARTS = tuple(_PARTS)
