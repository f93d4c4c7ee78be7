"""Copies between the tiers in simulated time: each direction a link, each copy a line of the event log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pbkv.cache.decisions import CacheEvent, Load, Offload
from pbkv.sim.background import Background, BackgroundCopy
from pbkv.sim.link import Link

if TYPE_CHECKING:
    import simpy

    from pbkv.cache.tiers import Tiers
    from pbkv.sim.profile import HardwareProfile


class SimulatedCopies:
    """The simulated `pbkv.serve.world.Copies`. A load's end is an event of the simulation."""

    def __init__(
        self,
        env: simpy.Environment,
        tiers: Tiers,
        profile: HardwareProfile,
        on_load_end: Callable[[Load], None],
    ) -> None:
        self.h2d, self.d2h = Link(profile.link.h2d_s), Link(profile.link.d2h_s)
        self.h2d.other, self.d2h.other = self.d2h, self.h2d
        self.block_bytes = tiers.config.block_size * profile.kv_bytes_per_token
        self._env = env
        self._tiers = tiers
        self._on_load_end = on_load_end
        self._load_ends_s: deque[float] = deque()
        self._offloading: deque[tuple[float, Offload]] = deque()
        self._prefetching = Background[Load](env, self.h2d, self._end_prefetch)
        self._nominal_bytes_per_s = profile.link.h2d_bytes_per_s

    @property
    def next_load_end_s(self) -> float:
        """The next instant at which a load or a prefetch may end."""
        urgent_s = self._load_ends_s[0] if self._load_ends_s else float("inf")
        return min(urgent_s, self._prefetching.next_event_s)

    @property
    def num_prefetching(self) -> int:
        """Prefetches that have not ended, and that nobody waits for."""
        return len(self._prefetching)

    @property
    def h2d_bytes_per_s(self) -> float:
        """Running mean of the link's bandwidth while it copied; before that, the profile's."""
        return self.h2d.num_bytes / self.h2d.busy_s if self.h2d.busy_s else self._nominal_bytes_per_s

    @property
    def busy_s(self) -> tuple[float, float]:
        return self.h2d.busy_s, self.d2h.busy_s

    @property
    def delayed(self) -> tuple[int, float]:
        return self.h2d.num_delayed, self.h2d.delayed_s

    @property
    def may_offload_early(self) -> bool:
        return not self.d2h.is_busy_at(self._env.now)

    @property
    def next_offload_end_s(self) -> float:
        return self._offloading[0][0] if self._offloading else float("inf")

    def start_load(self, load: Load) -> None:
        self._end_load_at(self._copy(self.h2d, load.num_blocks, load.event), load)

    def start_prefetch(self, load: Load) -> None:
        """Copy ``load`` whenever the link has nothing urgent to do."""
        self._prefetching.submit(load, load.num_blocks * self.block_bytes)

    def make_urgent(self, load: Load) -> None:
        """A request waits for ``load`` now: what is left of it, if a prefetch, goes before others."""
        if load.is_prefetch and (copy := self._prefetching.make_urgent(load)) is not None:
            self._finish_urgently(copy)

    def take_back_prefetches(self) -> list[Load]:
        """The prefetches whose copies have not begun, the last first; they will not be carried out."""
        return self._prefetching.take_back()

    def start_offloads(self) -> None:
        """Start what the cache has decided to offload since the last time."""
        if self._tiers.offloads:
            for offload in self._tiers.take_offloads():
                self._offloading.append((self._copy(self.d2h, offload.num_blocks, offload.event), offload))

    def next_end_s(self) -> float | None:
        end_s = min(self.next_offload_end_s, self.next_load_end_s)
        return None if end_s == float("inf") else max(0.0, end_s - self._env.now)

    def idle_s(self, wants_offloads: bool) -> float | None:
        """The end of a load is an event of its own, that of an offload is not."""
        if not (wants_offloads and self._offloading):
            return None
        return max(0.0, min(self.next_offload_end_s, self._env.peek()) - self._env.now)

    def end_copies(self) -> bool:
        if self.next_offload_end_s > self._env.now:
            return False
        while self.next_offload_end_s <= self._env.now:
            end_s, offload = self._offloading.popleft()
            self._tiers.end_offload(offload, end_s)
        return True

    def _end_prefetch(self, copy: BackgroundCopy[Load]) -> None:
        if copy.left_bytes:
            self._finish_urgently(copy)
        else:
            self._log_prefetch(copy, self._env.now)
            self._on_load_end(copy.item)

    def _finish_urgently(self, copy: BackgroundCopy[Load]) -> None:
        start_s, end_s = self.h2d.submit(copy.left_bytes, self._env.now)
        if copy.begun_at_s is None:
            copy.begun_at_s = start_s
        self._log_prefetch(copy, end_s)
        self._end_load_at(end_s, copy.item)

    def _log_prefetch(self, copy: BackgroundCopy[Load], end_s: float) -> None:
        begun_s = end_s if copy.begun_at_s is None else copy.begun_at_s
        queued_s, copy_s = begun_s - copy.submitted_at_s, end_s - begun_s
        num_bytes = copy.item.num_blocks * self.block_bytes
        event = copy.item.event._replace(num_bytes=num_bytes, queued_s=queued_s, copy_s=copy_s)
        self._tiers.events.append(event)

    def _end_load_at(self, end_s: float, load: Load) -> None:
        self._load_ends_s.append(end_s)
        done = self._env.timeout(end_s - self._env.now)
        done.callbacks.append(lambda _: self._end_load(load))

    def _end_load(self, load: Load) -> None:
        self._load_ends_s.popleft()
        self._on_load_end(load)

    def _copy(self, link: Link, num_blocks: int, event: CacheEvent) -> float:
        """Queue a copy on ``link`` and log it; when it ends."""
        num_bytes = num_blocks * self.block_bytes
        start_s, end_s = link.submit(num_bytes, self._env.now)
        queued_s, copy_s = start_s - event.at_s, end_s - start_s
        logged = event._replace(num_bytes=num_bytes, queued_s=queued_s, copy_s=copy_s)
        self._tiers.events.append(logged)
        return end_s
