"""Copies between the tiers in simulated time: each direction a link, each copy a line of the event log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pbkv.cache.decisions import CacheEvent, Load, Offload
from pbkv.sim.link import Link

if TYPE_CHECKING:
    import simpy

    from pbkv.cache.tiers import Tiers
    from pbkv.sim.profile import HardwareProfile


class Copies:
    """Carries the loads and offloads out that the cache decides on.

    A load's end is an event of the simulation. An offload's takes effect between two iterations: the
    engine asks for it by ``end_offloads``.
    """

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

    @property
    def next_load_end_s(self) -> float:
        return self._load_ends_s[0] if self._load_ends_s else float("inf")

    @property
    def next_offload_end_s(self) -> float:
        return self._offloading[0][0] if self._offloading else float("inf")

    def start_load(self, load: Load) -> None:
        end_s = self._copy(self.h2d, load.num_blocks, load.event)
        self._load_ends_s.append(end_s)
        done = self._env.timeout(end_s - self._env.now)
        done.callbacks.append(lambda _: self._end_load(load))

    def start_offloads(self) -> None:
        """Start what the cache has decided to offload since the last time."""
        if self._tiers.offloads:
            for offload in self._tiers.take_offloads():
                self._offloading.append((self._copy(self.d2h, offload.num_blocks, offload.event), offload))

    def end_offloads(self) -> bool:
        """Let the offloads take effect that have ended by now; whether there were any."""
        if self.next_offload_end_s > self._env.now:
            return False
        while self.next_offload_end_s <= self._env.now:
            end_s, offload = self._offloading.popleft()
            self._tiers.end_offload(offload, end_s)
        return True

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
