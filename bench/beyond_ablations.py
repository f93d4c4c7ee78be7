"""`oldest-first` with one ingredient taken out; registered by name for bench/beyond.py alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pbkv.cache import named
from pbkv.cache.inheritance import NoInheritance
from pbkv.cache.oldest import Arrivals, ByArrival, SilentActivity, YoungestLeaves
from pbkv.cache.patience import Patience
from pbkv.cache.pbkv import RetiredFirst
from pbkv.cache.policy import Policy, PolicyOptions

if TYPE_CHECKING:
    from pbkv.cache.known import Known
    from pbkv.cache.tree import Node


class _ByChance(YoungestLeaves):
    """Without age: the less likely first."""

    def key(self, node: Node) -> tuple[bool, float, float, float, float]:
        retired, _, _, chance, depth = super().key(node)
        return (retired, 0.0, 0.0, chance, depth) if node.tags else super().key(node)


class _ByAge(YoungestLeaves):
    """Without forecasts: the youngest first."""

    def key(self, node: Node) -> tuple[bool, float, float, float, float]:
        retired, _, age, _, depth = super().key(node)
        return (retired, 0.0, age, 0.0, depth) if node.tags else super().key(node)


def _without(what: str, options: PolicyOptions, known: Known) -> Policy:
    full = named.make_policy("oldest-first", 0, options, known)
    if what == "order":
        return replace(full, request_order=None)
    activity, arrivals, rule = full.followers
    assert isinstance(activity, SilentActivity)
    assert isinstance(arrivals, Arrivals)
    assert isinstance(rule, Patience)
    if what == "patience":
        return replace(full, followers=(activity, arrivals), admission=None)
    if what == "inheritance":
        activity._inheritance = NoInheritance()
        return full
    kind = {"age": _ByChance, "chance": _ByAge}.get(what)
    if kind is not None:
        return replace(full, gpu_order=kind(activity, arrivals), host_order=kind(activity, arrivals))
    order = RetiredFirst()  # "eviction": LAE's
    return replace(full, gpu_order=order, host_order=RetiredFirst(), request_order=ByArrival(arrivals))


_INGREDIENTS = ("order", "patience", "eviction", "chance", "age", "inheritance")
ABLATIONS = tuple(f"oldest-first-without-{what}" for what in _INGREDIENTS)


def register() -> None:
    """Make the ablations known by name in this process."""
    for name, what in zip(ABLATIONS, _INGREDIENTS, strict=True):
        named._COSTED[name] = lambda options, known, what=what: _without(what, options, known)
