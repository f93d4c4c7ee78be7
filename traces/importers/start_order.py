"""Logged calls in the order of a trace: by start, parents before those that wait for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbkv.traces.importers.calls import LoggedCall


def in_start_order(calls: Sequence[LoggedCall], counts: Counter[str]) -> list[LoggedCall]:
    """Parents first, else by start, else as logged. A circle is broken at its first call, and counted."""
    position = {id(call): index for index, call in enumerate(calls)}
    if _is_in_order(calls, position):
        return list(calls)
    keys = [(_start_s(call), index) for index, call in enumerate(calls)]
    waiting = [len({id(parent) for parent in call.parents}) for call in calls]
    children: dict[int, list[int]] = {}
    for index, call in enumerate(calls):
        for parent in {id(parent) for parent in call.parents}:
            children.setdefault(position[parent], []).append(index)
    ready = [keys[index] for index, number in enumerate(waiting) if not number]
    heapify(ready)
    done: set[int] = set()
    ordered: list[LoggedCall] = []
    while len(ordered) < len(calls):
        if not ready:
            stuck = min(index for index in range(len(calls)) if index not in done)
            counts["dependencies in a circle left out"] += 1
            calls[stuck].parents = [parent for parent in calls[stuck].parents if position[id(parent)] in done]
            waiting[stuck] = -1
            ready.append(keys[stuck])
        index = heappop(ready)[1]
        if index in done:
            continue
        done.add(index)
        ordered.append(calls[index])
        for child in children.get(index, ()):
            waiting[child] -= 1
            if not waiting[child]:
                heappush(ready, keys[child])
    return ordered


def _is_in_order(calls: Sequence[LoggedCall], position: Mapping[int, int]) -> bool:
    """Whether the order is that of the log already, which takes little memory to tell."""
    rises = all(_start_s(one) <= _start_s(other) for one, other in pairwise(calls))
    return rises and all(
        position[id(parent)] < index for index, call in enumerate(calls) for parent in call.parents
    )


def _start_s(call: LoggedCall) -> float:
    return call.started_s if call.started_s is not None else 0.0
