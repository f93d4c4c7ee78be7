"""MORI (arXiv 2606.00866): workflows by idleness, which needs no more than their ids.

Idleness ι = acting / (acting + reasoning) over the last five cycles of a workflow: reasoning from the first
use of the cache for a call (so without its time in the queue) to the end of its answer, acting from there to
the next call, the present wait included. Every 5 s workflows are ranked, those that reason before those that
act, the smallest ι first, and placed: *busy* while their contexts fit into the GPU tier, *idle* while they
fit into the host tier, the rest *waiting*. Until it is ranked a workflow is busy. The GPU evicts what belongs
to no busy or idle workflow first, then idle, then busy; the host tier the same, then busy, then idle; LRU
inside. A node that several share has the best of their places.

Our reading: a rank moves nothing by itself. What is demoted goes when room is needed, and what is promoted
is loaded on demand; waiting workflows are not held back. A workflow's size is that of the last prompts of
its agents (where the client names none: of its last prompt), what they share with others counted each time. A
first call that finds nothing in the cache reasons from its first token on.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pbkv.cache.activity import Activity
from pbkv.cache.follower import Changed
from pbkv.cache.pbkv import DiscountedReuse

if TYPE_CHECKING:
    from pbkv.cache.config import CacheConfig
    from pbkv.cache.decisions import Lease
    from pbkv.cache.tree import Node
    from pbkv.traces.schema import Workflow

_EVERY_S = 5.0
_NUM_CYCLES = 5
_WAITING, _IDLE, _BUSY = range(3)
_GPU_RANKS = (0, 1, 2)
_HOST_RANKS = (0, 2, 1)


class _Rhythm:
    """When a workflow reasons and when it acts."""

    __slots__ = ("_cycles", "_since_s", "contexts", "is_reasoning", "num_running", "place")

    def __init__(self) -> None:
        self.place = _BUSY
        self.contexts: dict[str, int] = {}  # blocks by agent
        self.num_running = 0
        self.is_reasoning = False
        self._since_s: float | None = None  # reasoning, or acting; None: in the queue
        self._cycles: deque[tuple[float, float]] = deque(maxlen=_NUM_CYCLES)  # seconds reasoning, acting

    def submit(self, now_s: float) -> None:
        self.num_running += 1
        if not self.is_reasoning:
            self._act_until(now_s)
            self._since_s = None

    def reason(self, now_s: float) -> None:
        if not self.is_reasoning and self.num_running:
            self.is_reasoning, self._since_s = True, now_s

    def end_call(self, now_s: float) -> None:
        self.num_running = max(self.num_running - 1, 0)
        if not self.num_running and self.is_reasoning and self._since_s is not None:
            self._cycles.append((now_s - self._since_s, 0.0))
            self.is_reasoning, self._since_s = False, now_s

    def idleness(self, now_s: float) -> float:
        reasoning, acting = sum(r for r, _ in self._cycles), sum(a for _, a in self._cycles)
        if self._since_s is not None:
            reasoning += now_s - self._since_s if self.is_reasoning else 0.0
            acting += 0.0 if self.is_reasoning else now_s - self._since_s
        return acting / (acting + reasoning) if acting else 0.0

    def _act_until(self, now_s: float) -> None:
        if self._since_s is not None and self._cycles:
            reasoned_s, acted_s = self._cycles.pop()
            self._cycles.append((reasoned_s, acted_s + now_s - self._since_s))


class Idleness(Activity):
    """Activity without forecasts, with a place for each active workflow."""

    def __init__(self) -> None:
        super().__init__(None, DiscountedReuse())
        self._rhythms: dict[str, _Rhythm] = {}  # in order of arrival
        self._ranked_at = 0  # in multiples of the interval
        self._sizes = (0, 0)

    def begun(self, config: CacheConfig) -> None:
        self._sizes = (config.gpu_blocks, config.host_blocks)

    # ------------------------------------------------------------------ what happens

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        changed = self.passed(now_s)
        name = workflow.workflow_id
        rhythm = self._rhythms.get(name) or self._rhythms.setdefault(name, _Rhythm())
        rhythm.submit(now_s)
        return changed

    def touched(self, node: Node, lease: Lease) -> None:
        super().touched(node, lease)
        if (rhythm := self._rhythms.get(lease.owner)) is not None:
            rhythm.contexts[lease.agent] = lease.path.num_blocks
            rhythm.reason(node.last_access_s)

    def computed(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        changed = self.passed(now_s)
        if (rhythm := self._rhythms.get(workflow.workflow_id)) is not None:
            rhythm.reason(now_s)
        return changed

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        changed = self.passed(now_s)
        if (rhythm := self._rhythms.get(workflow.workflow_id)) is not None:
            rhythm.end_call(now_s)
        return changed

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        changed = [*self.passed(now_s), *super().ended(workflow, now_s)]
        self._rhythms.pop(workflow.workflow_id, None)
        return changed

    def passed(self, now_s: float) -> Changed:
        tick = int(now_s // _EVERY_S)
        if tick <= self._ranked_at:
            return ()
        self._ranked_at = tick  # nothing has happened since: of ticks that were missed the last one counts
        return self._rank(tick * _EVERY_S)

    def next_due_s(self) -> float:
        return (self._ranked_at + 1) * _EVERY_S

    def _rank(self, now_s: float) -> Changed:
        def rank(rhythm: _Rhythm) -> tuple[bool, float]:
            return not rhythm.num_running, rhythm.idleness(now_s)

        changed: list[Node] = []
        gpu_blocks, host_blocks = self._sizes
        used = 0
        for name, rhythm in sorted(self._rhythms.items(), key=lambda item: rank(item[1])):
            used += sum(rhythm.contexts.values())
            place = _BUSY if used <= gpu_blocks else _IDLE if used <= gpu_blocks + host_blocks else _WAITING
            if place != rhythm.place:
                rhythm.place = place
                if (expectation := self._active.get(name)) is not None:
                    changed += self._changed(expectation)
        return changed

    # ------------------------------------------------------------------ what is asked

    def rank_of(self, node: Node, ranks: tuple[int, int, int]) -> int:
        """The best rank that an active workflow gives ``node``; −1 if there is none."""
        rhythms = self._rhythms
        return max(
            (ranks[rhythms[tag].place if tag in rhythms else _BUSY] for tag in node.tags or ()), default=-1
        )


class IdleFirst:
    """By place, then LRU."""

    def __init__(self, idleness: Idleness, ranks: tuple[int, int, int]) -> None:
        self._rank_of, self._ranks = idleness.rank_of, ranks
        self.queued = idleness.queued

    def key(self, node: Node) -> tuple[int, float, int, int]:
        return self._rank_of(node, self._ranks), node.last_access_s, -node.end, node.serial

    @classmethod
    def on_gpu(cls, idleness: Idleness) -> IdleFirst:
        return cls(idleness, _GPU_RANKS)

    @classmethod
    def on_host(cls, idleness: Idleness) -> IdleFirst:
        return cls(idleness, _HOST_RANKS)
