"""Copies that give way: served a slice at a time, whenever nothing urgent is queued on their link."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from pbkv.sim.link import SLICE_BYTES

if TYPE_CHECKING:
    import simpy

    from pbkv.sim.link import Link

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class BackgroundCopy(Generic[T]):
    """``item`` on its way; ``begun_at_s`` is None until its first slice begins."""

    item: T
    left_bytes: int
    submitted_at_s: float
    begun_at_s: float | None = None
    is_urgent: bool = False


class Background(Generic[T]):
    """The background copies of one link, in order. ``on_end`` is told of each at its end.

    A copy somebody now waits for can be made urgent; one that has not begun can be taken back.
    """

    def __init__(
        self, env: simpy.Environment, link: Link, on_end: Callable[[BackgroundCopy[T]], None]
    ) -> None:
        self._env = env
        self._link = link
        self._on_end = on_end
        self._queue: deque[BackgroundCopy[T]] = deque()
        self._is_serving = False
        self.next_event_s = float("inf")  # when a slice ends, or the link may be idle

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, item: T, num_bytes: int) -> None:
        self._queue.append(BackgroundCopy(item, num_bytes, self._env.now))
        if len(self._queue) == 1:
            self._begin_slice()

    def make_urgent(self, item: T) -> BackgroundCopy[T] | None:
        """Take ``item`` out for an urgent copy of what is left of it.

        None if it is in service, and will be made urgent when its slice ends, or is not here.
        """
        for copy in self._queue:
            if copy.item == item:
                copy.is_urgent = True
                if self._is_serving and copy is self._queue[0]:
                    return None
                self._queue.remove(copy)
                return copy
        return None

    def take_back(self) -> list[T]:
        """The copies that have not begun, last first: they are not served any more."""
        taken = []
        while self._queue and self._queue[-1].begun_at_s is None:
            taken.append(self._queue.pop().item)
        return taken

    def _begin_slice(self) -> None:
        """Serve the next slice if the link is idle; else look again when it may be."""
        if self._is_serving:
            return
        if not self._queue:
            self.next_event_s = float("inf")
            return
        now_s, copy = self._env.now, self._queue[0]
        if self._link.is_busy_at(now_s):
            self._call_at(self._link.free_at_s, self._begin_slice)
            return
        if copy.begun_at_s is None:
            copy.begun_at_s = now_s
        self._is_serving = True
        self._call_at(self._link.serve_slice(min(SLICE_BYTES, copy.left_bytes), now_s), self._end_slice)

    def _end_slice(self) -> None:
        self._is_serving = False
        copy = self._queue[0]
        copy.left_bytes -= min(SLICE_BYTES, copy.left_bytes)
        if not copy.left_bytes or copy.is_urgent:
            self._queue.popleft()
            self._on_end(copy)
        self._begin_slice()

    def _call_at(self, at_s: float, then: Callable[[], None]) -> None:
        self.next_event_s = at_s
        event = self._env.timeout(max(0.0, at_s - self._env.now))
        event.callbacks.append(lambda _: then())
