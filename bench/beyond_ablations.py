"""`warm-first` with one ingredient taken out; registered by name for bench/beyond.py alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pbkv.cache import named
from pbkv.cache.activity import TimedActivity
from pbkv.cache.inheritance import NoInheritance
from pbkv.cache.pbkv import RetiredFirst
from pbkv.cache.policy import Policy, PolicyOptions
from pbkv.cache.warm import SilentActivity, WarmFirst

if TYPE_CHECKING:
    from pbkv.cache.known import Known
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.scheduling import Waiting


class _EverTouched(SilentActivity):
    """Who has ever touched an entry counts, as in the paper."""

    touched = TimedActivity.touched


class _ByArrival(WarmFirst):
    """Workflows as they came."""

    def key(self, request: Waiting, manager: CacheManager, now_s: float) -> tuple[float, int]:
        arrived_s = self._arrivals.arrived_s(request.described.workflow_id, request.submitted_at_s)
        return arrived_s, request.position


class _BySubmission(WarmFirst):
    """Requests by their own submission and their misses."""

    def key(self, request: Waiting, manager: CacheManager, now_s: float) -> tuple[float, int]:
        due_s, position = super().key(request, manager, now_s)
        arrived_s = self._arrivals.arrived_s(request.described.workflow_id, request.submitted_at_s)
        return due_s - arrived_s + request.submitted_at_s, position


def _without(what: str, options: PolicyOptions, known: Known) -> Policy:
    """The parts are made anew by the policy; its classes are exchanged for those above."""
    full = named.make_policy("warm-first", 0, options, known)
    activity, _, order, rule = full.followers
    if what == "order":
        return replace(full, request_order=None)
    if what == "patience":
        return replace(full, followers=tuple(f for f in full.followers if f is not rule), admission=None)
    if what == "eviction":
        return replace(full, gpu_order=RetiredFirst(), host_order=RetiredFirst())
    if what == "inheritance":
        assert isinstance(activity, SilentActivity)
        activity._inheritance = NoInheritance()
        return full
    part, kind = {
        "last calls": (activity, _EverTouched),
        "misses": (order, _ByArrival),
        "arrivals": (order, _BySubmission),
    }[what]
    part.__class__ = kind
    return full


INGREDIENTS = ("order", "misses", "arrivals", "patience", "eviction", "last calls", "inheritance")
ABLATIONS = tuple(f"warm-first-without-{what.replace(' ', '-')}" for what in INGREDIENTS)


def register() -> None:
    """Make the ablations known by name in this process."""
    for name, what in zip(ABLATIONS, INGREDIENTS, strict=True):
        named._COSTED[name] = partial(_without, what)
