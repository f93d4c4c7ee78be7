"""PBKV's rivals by name: which parts each is composed of. What each does stands in its own module."""

from __future__ import annotations

from collections.abc import Callable

from pbkv.cache.best_ttl import BestTtl, FixedTtl
from pbkv.cache.eviction import Lru
from pbkv.cache.gdsf import Gdsf
from pbkv.cache.kvflow import FarthestFirst, NextPrompts, PassOverLoading, StepsToExecution
from pbkv.cache.kvflow_context import ContextSteps
from pbkv.cache.mori import IdleFirst, Idleness
from pbkv.cache.policy import Policy, PolicyOptions
from pbkv.cache.s3_fifo import S3Fifo
from pbkv.cache.sieve import Sieve
from pbkv.cache.ttl import InTimeFirst, Pins, UnpinnedFirst
from pbkv.traces.errors import ConfigError


def fixed_ttl(name: str) -> Policy:
    """``ttl:SECONDS``. Raises ConfigError for a bad number."""
    try:
        seconds = float(name.partition(":")[2])
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError("policy", name, "ttl:SECONDS, a finite number ≥ 0")
    return _ttl(FixedTtl(seconds))


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


RIVALS: dict[str, Callable[[PolicyOptions], Policy]] = {
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
