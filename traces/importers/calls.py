"""From logged calls to workflows: start order, tool waits, arrivals, and a count of what was not clear.

An importer adds calls to a ``Log`` as it reads; ``Log.imported`` cuts the prompts and gives the workflows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path
from typing import Any

from pbkv.traces.errors import TraceError
from pbkv.traces.importers.block_prompts import BlockPrompts
from pbkv.traces.importers.prompts import PromptTree
from pbkv.traces.importers.text import Estimate, Tokens
from pbkv.traces.schema import Call, TraceMetadata, Workflow

_CLOCK_S = 1e-3  # what clocks of one machine may differ by, as logs write milliseconds


@dataclass(slots=True, eq=False)
class LoggedCall:
    """One model call as a log tells it; times in seconds of the log's clock, None where it is silent."""

    agent: str
    prompt: int
    num_output_tokens: int
    answer: int | None = None
    parents: list[LoggedCall] = field(default_factory=list)
    started_s: float | None = None
    ended_s: float | None = None
    gap_s: float | None = None  # logged as such


@dataclass(slots=True)
class Log:
    """All calls of an import. ``counts``: what was left out or not clear, by its name."""

    path: Path
    name: str
    tokens: Tokens = field(default_factory=Estimate)
    counts: Counter[str] = field(default_factory=Counter)
    sessions: dict[str, list[LoggedCall]] = field(default_factory=dict)
    num_logged_prompt_tokens: int = 0
    own_clocks: bool = False  # each workflow's times count from its own start: no arrivals
    blocks: BlockPrompts | None = None  # instead of ``tree``, where prompts are block hashes
    tree: PromptTree = field(init=False)

    def __post_init__(self) -> None:
        self.tree = PromptTree(self.tokens)

    def add(self, workflow_id: str, call: LoggedCall) -> None:
        self.sessions.setdefault(workflow_id, []).append(call)

    def imported(self, **extra: object) -> tuple[Iterator[Workflow], TraceMetadata]:
        """The workflows by arrival. Raises TraceError if there is no call.

        The metadata's counts grow until the last workflow has been taken.
        """
        if not self.sessions:
            found = "; ".join(f"{number} {name}" for name, number in self.counts.items()) or "nothing"
            raise TraceError(self.path, "model calls", found, f"at least one call ({self.name})")
        known: dict[str, Any] = {"format": self.name, "counts": self.counts}
        if self.blocks is None:
            self.tree.seal()
            known["tokens"] = self.tokens.name
        else:
            known["block_size"] = self.blocks.seal()
        metadata = TraceMetadata(self.path.name, generator="pbkv traces import", extra={**known, **extra})
        return self._workflows(metadata.extra), metadata

    def _workflows(self, extra: Any) -> Iterator[Workflow]:
        arrivals = {key: _arrival_s(calls) for key, calls in self.sessions.items()}
        known = [arrival_s for arrival_s in arrivals.values() if arrival_s is not None]
        first_s, order = min(known, default=0.0), list(self.sessions)
        if len(known) == len(arrivals) and not self.own_clocks:
            order.sort(key=lambda key: arrivals[key] or 0.0)
        num_prompt_tokens = 0
        for key in order:
            workflow = self._workflow(key, arrivals[key], first_s)
            num_prompt_tokens += sum(call.num_prompt_tokens for call in workflow.calls)
            yield workflow
        if self.num_logged_prompt_tokens:
            extra["num_prompt_tokens_logged"] = self.num_logged_prompt_tokens
            extra["num_prompt_tokens_imported"] = num_prompt_tokens

    def _workflow(self, key: str, arrival_s: float | None, first_s: float) -> Workflow:
        calls = _in_start_order(self.sessions[key], self.counts)
        indices = {id(call): index for index, call in enumerate(calls)}
        made = [self._call(index, call, indices, arrival_s) for index, call in enumerate(calls)]
        is_known = arrival_s is not None and not self.own_clocks
        return Workflow(key, self.name, (arrival_s or 0.0) - first_s if is_known else None, made)

    def _call(self, index: int, call: LoggedCall, indices: dict[int, int], arrival_s: float | None) -> Call:
        ids, tokens, kinds = (self.blocks or self.tree).segments(call.prompt)
        gap_s, origin = self._gap(call, arrival_s)
        return Call(
            call_index=index,
            agent=call.agent,
            parent_indices=sorted({indices[id(parent)] for parent in call.parents}),
            tool_gap_s=gap_s,
            segment_ids=ids,
            segment_tokens=tokens,
            num_output_tokens=call.num_output_tokens,
            output_id=self._answer_id(call),
            segment_kinds=kinds,
            tool_gap_origin=origin,
        )

    def _gap(self, call: LoggedCall, arrival_s: float | None) -> tuple[float | None, str | None]:
        if call.gap_s is not None:
            return call.gap_s, "logged"
        ends = [parent.ended_s for parent in call.parents] if call.parents else [arrival_s]
        known = [end for end in ends if end is not None]
        if call.started_s is None or len(known) < len(ends):
            self.counts["waits unknown"] += 1
            return None, None
        gap_s = call.started_s - max(known)
        if gap_s < -_CLOCK_S:
            self.counts["waits unknown (clock went backwards)"] += 1
            return None, None
        return max(gap_s, 0.0), "rebuilt"

    def _answer_id(self, call: LoggedCall) -> int | None:
        if call.answer is None or not self.tree.has_followers(call.answer):
            return None
        if self.tree.num_tokens(call.answer) != call.num_output_tokens:
            self.counts["answers found again with another length"] += 1
            return None
        return self.tree.only_segment(call.answer)


def link_by_time(calls: Sequence[LoggedCall]) -> None:
    """Give each call without parents the last calls that had ended when it started.

    Where a time is missing, the call before it in the log.
    """
    if any(call.started_s is None or call.ended_s is None for call in calls):
        for before, call in pairwise(calls):
            call.parents = call.parents or [before]
        return
    ends = sorted(calls, key=lambda call: call.ended_s or 0.0)
    latest: dict[int, LoggedCall] = {}
    position = 0
    for call in sorted(calls, key=lambda call: call.started_s or 0.0):
        while position < len(ends) and (ends[position].ended_s or 0.0) <= (call.started_s or 0.0):
            ended = ends[position]
            if ended is call:
                break
            latest[id(ended)] = ended
            for parent in ended.parents:
                latest.pop(id(parent), None)
            position += 1
        call.parents = call.parents or list(latest.values())


def _arrival_s(calls: Sequence[LoggedCall]) -> float | None:
    return min((call.started_s for call in calls if call.started_s is not None), default=None)


def _in_start_order(calls: Sequence[LoggedCall], counts: Counter[str]) -> list[LoggedCall]:
    """Parents first, else by start, else as logged. A circle is broken at its first call, and counted."""
    position = {id(call): index for index, call in enumerate(calls)}
    keys = [
        (call.started_s if call.started_s is not None else 0.0, index) for index, call in enumerate(calls)
    ]
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
