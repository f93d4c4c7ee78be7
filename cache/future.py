"""When blocks are used next: exactly, where no policy can change it, or estimated from the run so far."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pbkv.cache.follower import NOTHING, Changed, Follower
from pbkv.cache.known import POSITION_BITS, CallUses, Itinerary, WorkflowUses, use_code

if TYPE_CHECKING:
    from pbkv.cache.blocks import Key
    from pbkv.cache.tree import Node
    from pbkv.traces.schema import Workflow

NEVER = float("inf")
_FIRST_GUESS_S = 1.0  # of a call's time, until one has ended
_DIGITS = 6  # instants are told to the microsecond, so that rounding errors decide nothing


class Future(Follower):
    """Follows workflows and says when blocks are used next. This one knows of no use."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        self.now_s = now_s
        return NOTHING

    def passed(self, now_s: float) -> Changed:
        self.now_s = now_s
        return NOTHING

    def cut(self, upper: Node, lower: Node) -> Changed:
        return (lower,)

    def next_use_s(self, run: Key, block: int, node: Node) -> float:
        """When the block that ends at ``block``, of ``run``, is used next; `NEVER` if it is not.

        ``node``, whose key this decides, is answered as changed when the instant may have moved away.
        """
        return NEVER

    def step_below(self, run: Key, block: int) -> int:
        """The last block before ``block`` in ``run`` that may be used at another time; 0 if none is."""
        return 0


class ExactFuture(Future):
    """The calls come in an order that no policy can change: an instant is a call's number."""

    def __init__(self, uses: CallUses) -> None:
        super().__init__()
        self._uses = uses.uses

    def next_use_s(self, run: Key, block: int, node: Node) -> float:
        uses = self._uses.of(run, block)
        index = bisect_right(uses, self.now_s)
        return uses[index] if index < len(uses) else NEVER

    def step_below(self, run: Key, block: int) -> int:
        return self._uses.step_below(run, block)


class _Progress:
    """A released workflow: which of its calls have ended, which have come in, and what it did last."""

    __slots__ = (
        "_anchor_s",
        "_call_s",
        "_itinerary",
        "_num_before",
        "_wait_s",
        "candidates",
        "ended",
        "waiting",
    )

    def __init__(self, itinerary: Itinerary) -> None:
        self.candidates: dict[int, Node] = {}  # whose next use is one of this workflow's, by serial
        self.waiting: dict[int, float] = {}  # calls that have come in and not ended: since when
        self.ended: set[int] = set()
        self._itinerary = itinerary

    def submit(self, position: int, now_s: float, call_s: float) -> None:
        self.waiting[position] = now_s
        self._anchor(now_s, self._itinerary.depths[position], self._itinerary.waits_s[position], call_s)

    def end(self, position: int, now_s: float, call_s: float) -> None:
        del self.waiting[position]
        self.ended.add(position)
        self._anchor(now_s, self._itinerary.depths[position] + 1, self._itinerary.waits_s[position], call_s)

    def _anchor(self, now_s: float, num_before: int, wait_s: float, call_s: float) -> None:
        self._anchor_s, self._num_before, self._wait_s, self._call_s = now_s, num_before, wait_s, call_s

    def due_s(self, position: int) -> float:
        """When call ``position`` came in, or is expected to."""
        if position in self.waiting:
            return self.waiting[position]
        num_calls = self._itinerary.depths[position] - self._num_before
        wait_s = self._itinerary.waits_s[position] - self._wait_s
        return self._anchor_s + max(0.0, num_calls * self._call_s + wait_s)

    def next_s(self, codes: Sequence[int], index: int, end: int) -> float:
        """The first of the uses ``codes[index:end]`` whose call has not ended."""
        for code in codes[index:end]:
            position = code & ((1 << POSITION_BITS) - 1)
            if position not in self.ended:
                return self.due_s(position)
        return NEVER


class EstimatedFuture(Future):
    """Which calls come is known, in each workflow's own order; when they come depends on the policy.

    A call that has come in counts from then until it ends. A coming one is expected at its workflow's last
    event (a call that came in or ended), plus the mean time of a call so far (of all workflows, from
    submission to end) for each call between the two on the longest chain, plus the trace's tool waits
    along it. A workflow not yet released is expected after the last release, in the known order of
    release, one mean interval between releases (since the first one) after the other; before there is
    such a mean, never. All estimates are frozen between two events of what they depend on.
    """

    def __init__(self, uses: WorkflowUses) -> None:
        super().__init__()
        self._uses = uses.uses
        self._itineraries = uses.itineraries
        self._ordinals = uses.ordinals
        self._active: dict[int, _Progress] = {}  # by ordinal
        self._has_ended = [False] * len(uses.itineraries)
        self._first_live = 0  # all ordinals below it have ended
        self._releases = _Releases()
        self._num_ended_calls = 0
        self._sum_s = 0.0

    # ------------------------------------------------------------------ what happens

    def submitted(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        ordinal, changed = self._ordinals[workflow.workflow_id], [*NOTHING]
        if ordinal not in self._active:
            self._active[ordinal] = _Progress(self._itineraries[ordinal])
            changed = self._releases.release(now_s, self._call_s)
        self._active[ordinal].submit(position, now_s, self._call_s)
        return changed + _taken(self._active[ordinal].candidates)

    def call_ended(self, workflow: Workflow, position: int, now_s: float) -> Changed:
        progress = self._active[self._ordinals[workflow.workflow_id]]
        self._num_ended_calls += 1
        self._sum_s += now_s - progress.waiting[position]
        progress.end(position, now_s, self._call_s)
        return _taken(progress.candidates)

    def ended(self, workflow: Workflow, now_s: float) -> Changed:
        ordinal = self._ordinals[workflow.workflow_id]
        progress = self._active.pop(ordinal)
        self._has_ended[ordinal] = True
        while self._first_live < len(self._has_ended) and self._has_ended[self._first_live]:
            self._first_live += 1
        return _taken(progress.candidates)

    @property
    def _call_s(self) -> float:
        return self._sum_s / self._num_ended_calls if self._num_ended_calls else _FIRST_GUESS_S

    # ------------------------------------------------------------------ what is asked

    def next_use_s(self, run: Key, block: int, node: Node) -> float:
        codes = self._uses.of(run, block)
        soonest_s, index = NEVER, bisect_left(codes, use_code(self._first_live, 0))
        while index < len(codes):
            ordinal = codes[index] >> POSITION_BITS
            end = bisect_left(codes, use_code(ordinal + 1, 0), index)
            if not self._has_ended[ordinal]:
                progress = self._active.get(ordinal)
                if progress is None:
                    at_s, candidates = self._first_of(ordinal, codes[index]), self._releases.candidates
                else:
                    at_s, candidates = progress.next_s(codes, index, end), progress.candidates
                if at_s < soonest_s:
                    soonest_s, depends = at_s, candidates
                if progress is None:
                    break  # those released after it come later
            index = end
        if soonest_s == NEVER:
            return NEVER
        depends[node.serial] = node
        return round(soonest_s, _DIGITS)

    def step_below(self, run: Key, block: int) -> int:
        return self._uses.step_below(run, block)

    def _first_of(self, ordinal: int, code: int) -> float:
        """When a workflow not yet released is expected to make its call ``code``."""
        itinerary, position = self._itineraries[ordinal], code & ((1 << POSITION_BITS) - 1)
        return self._releases.due_s(ordinal, itinerary.depths[position], itinerary.waits_s[position])


class _Releases:
    """How many workflows have been released, and when others will be if it goes on like this."""

    def __init__(self) -> None:
        self.candidates: dict[int, Node] = {}  # whose next use is by a workflow not yet released, by serial
        self._num = self._num_later = 0
        self._first_s = self._last_s = 0.0
        self._call_s = _FIRST_GUESS_S

    def release(self, now_s: float, call_s: float) -> list[Node]:
        """The next one is released; what is to be asked about again."""
        if not self._num:
            self._first_s = now_s
        self._num += 1
        self._num_later += now_s > self._first_s
        self._last_s, self._call_s = now_s, call_s
        return _taken(self.candidates)

    def due_s(self, ordinal: int, num_before: int, wait_s: float) -> float:
        if not self._num_later:
            return NEVER
        interval_s = (self._last_s - self._first_s) / self._num_later
        num_between = max(ordinal - self._num + 1, 1)
        return self._last_s + num_between * interval_s + num_before * self._call_s + wait_s


def make_future(uses: CallUses | WorkflowUses | None) -> Future:
    """What ``uses`` allow to say."""
    if isinstance(uses, CallUses):
        return ExactFuture(uses)
    return Future() if uses is None else EstimatedFuture(uses)


def _taken(candidates: dict[int, Node]) -> list[Node]:
    taken = list(candidates.values())
    candidates.clear()
    return taken
