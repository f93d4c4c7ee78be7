"""From logged calls to workflows: start order, tool waits, arrivals, and a count of what was not clear.

An importer adds calls to a ``Log`` as it reads; ``Log.imported`` cuts the prompts and gives the workflows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from sys import intern
from typing import Any

from pbkv.traces.importers.block_prompts import BlockPrompts
from pbkv.traces.importers.loose import no_calls
from pbkv.traces.importers.made_calls import MadeCalls
from pbkv.traces.importers.prompts import PromptTree
from pbkv.traces.importers.start_order import in_start_order
from pbkv.traces.importers.text import Estimate, Tokens
from pbkv.traces.schema import TEXT_LEFT_OUT, TEXT_STORED, TraceMetadata, Workflow

_CLOCK_S = 1e-3  # what clocks of one machine may differ by, as logs write milliseconds


@dataclass(slots=True, eq=False)
class LoggedCall:
    """One model call as a log tells it; times in seconds of the log's clock, None where it is silent."""

    agent: str
    prompt: int
    num_output_tokens: int
    answer: int | None = None
    parents: Sequence[LoggedCall] = ()
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
    keeps_text: bool = False
    tree: PromptTree = field(init=False)

    def __post_init__(self) -> None:
        self.tree = PromptTree(self.tokens, keeps_text=self.keeps_text)

    def add(self, workflow_id: str, call: LoggedCall) -> None:
        call.agent = intern(call.agent)
        self.sessions.setdefault(workflow_id, []).append(call)

    def imported(self, **extra: object) -> tuple[Iterator[Workflow], TraceMetadata]:
        """The workflows by arrival. Raises TraceError if there is no call.

        The metadata's counts grow until the last workflow has been taken.
        """
        if not self.sessions:
            raise no_calls(self.path, self.name, self.counts)
        known: dict[str, Any] = {"format": self.name, "counts": self.counts}
        if self.blocks is None:
            self.tree.seal()
            known["tokens"] = self.tokens.name
            known["text"] = TEXT_STORED if self.keeps_text else TEXT_LEFT_OUT
        else:
            known["block_size"] = self.blocks.seal()
        metadata = TraceMetadata(self.path.name, generator="pbkv traces import", extra={**known, **extra})
        return self._workflows(metadata.extra), metadata

    def _workflows(self, extra: Any) -> Iterator[Workflow]:
        """Each workflow leaves the log when its turn comes."""
        known = [at_s for calls in self.sessions.values() if (at_s := _arrival_s(calls)) is not None]
        first_s, order = min(known, default=0.0), list(self.sessions)
        if len(known) == len(order) and not self.own_clocks:
            order.sort(key=lambda key: _arrival_s(self.sessions[key]) or 0.0)
        num_prompt_tokens = 0
        for key in order:
            logged = self.sessions.pop(key)
            if self.num_logged_prompt_tokens:
                num_prompt_tokens += sum(self.tree.num_prompt_tokens(call.prompt) for call in logged)
            yield self._workflow(key, logged, first_s)
        if self.num_logged_prompt_tokens:
            extra["num_prompt_tokens_logged"] = self.num_logged_prompt_tokens
            extra["num_prompt_tokens_imported"] = num_prompt_tokens

    def _workflow(self, key: str, logged: list[LoggedCall], first_s: float) -> Workflow:
        arrival_s = _arrival_s(logged)
        calls = in_start_order(logged, self.counts)
        gaps = [self._gap(call, arrival_s) for call in calls]
        made = MadeCalls(self.blocks or self.tree, calls, gaps, [self._answer_id(call) for call in calls])
        is_known = arrival_s is not None and not self.own_clocks
        return Workflow(key, self.name, (arrival_s or 0.0) - first_s if is_known else None, made)

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
            call.parents = call.parents or (before,)
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
        call.parents = call.parents or tuple(latest.values())


def _arrival_s(calls: Sequence[LoggedCall]) -> float | None:
    return min((call.started_s for call in calls if call.started_s is not None), default=None)
