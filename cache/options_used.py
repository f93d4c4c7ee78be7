"""Which options a policy uses, so that one which changes nothing is said and not swallowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from pbkv.cache.named import POLICIES
from pbkv.cache.policy import PolicyOptions

_CALLS_AHEAD = ("predictor", "num_steps", "noise")
_TAGS = (*_CALLS_AHEAD, "gamma", "inherit", "idle_timeout_s", "forecast_delay_s")
_PBKV = (*_TAGS, "host_order")
_OF_ORACLE = tuple(name for name in _PBKV if name != "predictor")
_USED: Mapping[str, Sequence[str]] = {
    "lae": ("idle_timeout_s",),
    "pbkv-he": _PBKV,
    "pbkv": _PBKV,
    "pbkv-aggressive": (*_PBKV, "rho"),
    "pbkv-he-oracle": _OF_ORACLE,
    "pbkv-oracle": _OF_ORACLE,
    "warm-first": (*_CALLS_AHEAD, "idle_timeout_s"),
    "ttl": ("prefill_cost",),
    "gdsf": ("prefill_cost",),
}
_USED_BY_PARTS: Mapping[str, Sequence[str]] = {"admission": ("pause_limit_s",), "prefetch": _TAGS}


def options_used(name: str) -> frozenset[str]:
    """Fields of `PolicyOptions` that the policy called ``name`` uses; all, of somebody else's."""
    base, *parts = name.split("+")
    if base not in POLICIES and not base.startswith("ttl:"):
        return frozenset(field.name for field in fields(PolicyOptions))
    of_parts = (option for part in parts for option in _USED_BY_PARTS.get(part, ()))
    return frozenset([*_USED.get(base, ()), *of_parts])


def unused_options(options: PolicyOptions, names: Sequence[str]) -> list[str]:
    """Fields of ``options`` that are not as by default and that no policy in ``names`` uses."""
    defaults, used = PolicyOptions(), frozenset[str]().union(*map(options_used, names))
    return [
        field.name
        for field in fields(PolicyOptions)
        if getattr(options, field.name) != getattr(defaults, field.name) and field.name not in used
    ]
