"""Admission by capacity (ThunderAgent, arXiv 2602.13692; CONCUR): no more contexts than the GPU tier holds.

A workflow reasons (a call of it is in the engine), acts, or is paused. Load = what reasoning and acting
workflows hold, what they share counted once, in blocks. Over the capacity acting workflows are paused, the
smallest first; if that is not enough, reasoning ones at the end of their call, again the smallest first. A
paused workflow's calls wait. Under the capacity paused ones are resumed, the one paused longest first, as
long as they fit. One whose call has waited for ``limit_s`` is resumed whatever the load, and is not paused
again before that call has ended. A new workflow that does not fit is paused from the start.

Our reading: a workflow holds a context for each of its agents, as large as its largest call in progress or
its last one with the answer; shared is what the prompts that contexts were last served with have in common,
within a workflow and between them. The limit is ours: 60 s, two or
three times what a workflow takes on an idle engine, so that waiting hurts but nobody starves. An engine with
nothing to do starts somebody in any case.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pbkv.cache.blocks import shared_runs
from pbkv.cache.follower import NOTHING, Changed, Follower

if TYPE_CHECKING:
    from pbkv.cache.blocks import BlockPath, Key
    from pbkv.cache.config import CacheConfig
    from pbkv.cache.decisions import Lease
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.scheduling import AdmissionRule, Waiting
    from pbkv.cache.tree import Node
    from pbkv.traces.schema import Call, Workflow

_NEVER = float("inf")


class _Shares:
    """Blocks that several paths have in common: each of a run's users but one."""

    def __init__(self) -> None:
        self.num_blocks = 0
        self._users: dict[Key, int] = {}

    def change(self, path: BlockPath, first_run: int, by: int) -> None:
        """One user more (1) or less (−1) of the runs from ``first_run`` on."""
        users, start = self._users, path.ends[first_run - 1] if first_run else 0
        for key, end in zip(path.keys[first_run:], path.ends[first_run:], strict=True):
            number = users.get(key, 0) + by
            if (number > 1) if by > 0 else number:
                self.num_blocks += by * (end - start)
            if number:
                users[key] = number
            else:
                del users[key]
            start = end


class _Context:
    """What one agent of a workflow holds: its largest call in progress, or its last one with the answer."""

    __slots__ = ("calls", "num_blocks", "path")

    def __init__(self) -> None:
        self.calls: dict[int, int] = {}  # in progress: blocks by position
        self.num_blocks = 0
        self.path: BlockPath | None = None  # as it was last served


class _Live:
    """One workflow."""

    __slots__ = (
        "contexts",
        "is_paused",
        "is_spared",
        "num_blocks",
        "num_running",
        "pauses_next",
        "waits_until_s",
    )

    def __init__(self) -> None:
        self.contexts: dict[str, _Context] = {}  # by agent
        self.num_blocks = 0  # of all contexts
        self.num_running = 0  # calls in progress
        self.is_paused = False
        self.waits_until_s = _NEVER  # paused, and a call of it waits: when it is resumed in any case
        self.pauses_next = False  # at the end of its call
        self.is_spared = False  # until the end of its call

    def context(self, agent: str) -> _Context:
        return self.contexts.get(agent) or self.contexts.setdefault(agent, _Context())


class CapacityAdmission(Follower):
    """Follows workflows, and is the admission rule."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._live: dict[str, _Live] = {}
        self._paused: dict[str, _Live] = {}  # in the order of their pauses
        self._marked: list[_Live] = []  # to be paused at the end of their call
        self._deadlines: deque[tuple[float, str]] = deque()
        self._shares = _Shares()
        self._held = 0  # by those that are not paused
        self._capacity = 0
        self._block_size = 1

    def begun(self, config: CacheConfig) -> None:
        self._capacity, self._block_size = config.gpu_blocks, config.block_size

    @property
    def load(self) -> int:
        """Blocks."""
        return self._held - self._shares.num_blocks

    # ------------------------------------------------------------------ what happens

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        self._end_pauses(now_s)
        name = workflow.workflow_id
        live = self._live.get(name)
        if live is None:
            live = self._live[name] = _Live()
            self._begin(live, workflow.calls[position])
            if self.load > self._capacity:
                self._pause(name, live)
        else:
            self._begin(live, workflow.calls[position])
        if live.is_paused and live.waits_until_s == _NEVER:
            live.waits_until_s = now_s + self._limit_s
            self._deadlines.append((live.waits_until_s, name))
        self._balance()
        return NOTHING

    def touched(self, node: Node, lease: Lease) -> None:
        """It runs: the engine may have started it for want of others."""
        if (live := self._live.get(lease.owner)) is not None:
            self._resume(lease.owner, live)
            self._share(live.context(lease.agent), lease.path)

    def computed(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        if (live := self._live.get(workflow.workflow_id)) is not None:
            self._resume(workflow.workflow_id, live)
        return NOTHING

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        self._end_pauses(now_s)
        name, call = workflow.workflow_id, workflow.calls[position]
        if (live := self._live.get(name)) is not None:
            context = live.context(call.agent)
            live.num_running -= context.calls.pop(position, None) is not None
            self._resize(live, context, self._blocks(call.num_held_tokens))
            if not live.num_running:
                live.is_spared = False
                if live.pauses_next:
                    self._pause(name, live)
            self._balance()
        return NOTHING

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        self._end_pauses(now_s)
        if (live := self._live.pop(workflow.workflow_id, None)) is not None:
            self._resume(workflow.workflow_id, live)
            self._hold(live, -1)
            self._balance()
        return NOTHING

    # ------------------------------------------------------------------ what is asked

    def admits(self, request: Waiting, manager: CacheManager, now_s: float) -> bool:
        paused = self._paused.get(request.described.workflow_id)
        return paused is None or now_s >= paused.waits_until_s

    def next_change_s(self) -> float:
        while self._deadlines:
            until_s, name = self._deadlines[0]
            if (live := self._paused.get(name)) is not None and live.waits_until_s == until_s:
                return until_s
            self._deadlines.popleft()
        return _NEVER

    # ------------------------------------------------------------------ pauses

    def _begin(self, live: _Live, call: Call) -> None:
        context = live.context(call.agent)
        live.num_running += call.call_index not in context.calls
        context.calls[call.call_index] = self._blocks(call.num_prompt_tokens)
        self._resize(live, context, 0)

    def _end_pauses(self, now_s: float) -> None:
        """Whoever has waited for the limit is resumed."""
        while self.next_change_s() <= now_s:
            name = self._deadlines.popleft()[1]
            live = self._live[name]
            self._resume(name, live)
            live.is_spared = True

    def _balance(self) -> None:
        for live in self._marked:
            live.pauses_next = False
        self._marked.clear()
        if self.load > self._capacity:
            self._pause_acting()
            self._mark_reasoning()
        else:
            self._resume_those_that_fit()

    def _pause_acting(self) -> None:
        acting = [
            item
            for item in self._live.items()
            if not (item[1].num_running or item[1].is_paused or item[1].is_spared)
        ]
        for name, live in sorted(acting, key=_size):
            if self.load <= self._capacity:
                break
            self._pause(name, live)

    def _mark_reasoning(self) -> None:
        over = self.load - self._capacity
        if over > 0:
            reasoning = [item for item in self._live.items() if item[1].num_running and not item[1].is_paused]
            for _, live in sorted(reasoning, key=_size):
                if over <= 0:
                    break
                if not live.is_spared:
                    live.pauses_next = True
                    self._marked.append(live)
                    over -= live.num_blocks

    def _resume_those_that_fit(self) -> None:
        while self._paused:
            name, live = next(iter(self._paused.items()))
            self._hold(live, 1)
            if self.load > self._capacity:
                self._hold(live, -1)
                break
            self._hold(live, -1)
            self._resume(name, live)

    def _pause(self, name: str, live: _Live) -> None:
        live.is_paused, live.pauses_next = True, False
        self._paused[name] = live
        self._hold(live, -1)

    def _resume(self, name: str, live: _Live) -> None:
        if live.is_paused:
            live.is_paused, live.waits_until_s = False, _NEVER
            del self._paused[name]
            self._hold(live, 1)

    # ------------------------------------------------------------------ load

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_size)

    def _hold(self, live: _Live, by: int) -> None:
        self._held += by * live.num_blocks
        for context in live.contexts.values():
            if context.path is not None:
                self._shares.change(context.path, 0, by)

    def _resize(self, live: _Live, context: _Context, last: int) -> None:
        """To the largest call in progress, or to ``last`` where there is none."""
        num_blocks = max(context.calls.values(), default=last)
        if not live.is_paused:
            self._held += num_blocks - context.num_blocks
        live.num_blocks += num_blocks - context.num_blocks
        context.num_blocks = num_blocks

    def _share(self, context: _Context, path: BlockPath) -> None:
        """The agent, of a workflow that is not paused, is now served with ``path``."""
        before, context.path = context.path, path
        if before is path:
            return
        first = 0 if before is None else shared_runs(before, path)
        if before is not None:
            self._shares.change(before, first, -1)
        self._shares.change(path, first, 1)


class AllAdmit:
    """Several rules at once: whoever all of them admit."""

    def __init__(self, *rules: AdmissionRule) -> None:
        self._rules = rules

    def admits(self, request: Waiting, manager: CacheManager, now_s: float) -> bool:
        return all(rule.admits(request, manager, now_s) for rule in self._rules)

    def next_change_s(self) -> float:
        return min(rule.next_change_s() for rule in self._rules)


def _size(item: tuple[str, _Live]) -> int:
    return item[1].num_blocks
