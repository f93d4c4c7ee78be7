"""The replay's copies: decisions of the cache as transfers between the pools, polled between iterations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import sleep
from typing import TYPE_CHECKING

from pbkv.cache.decisions import Load, Offload
from pbkv.replay.transfers import AHEAD, URGENT, Lane, Transfer, Transfers

if TYPE_CHECKING:
    import simpy

    from pbkv.cache.tiers import Tiers
    from pbkv.replay.pace import Pace
    from pbkv.replay.page_tables import PageIds, PageTables

_LONGEST_WAIT_S = 3600.0
_FIRST_GUESS = 1e10  # bytes a second of a lane that has copied nothing yet


@dataclass(eq=False, slots=True)
class _InFlight:
    copy: Load | Offload
    transfer: Transfer
    is_awaited: bool  # a request waits for it, or blocks do
    found_ahead: bool = False  # the link was busy with a copy ahead of need


class RealCopies:
    """A `pbkv.serve.world.Copies`; ``transfers`` is None where there is no host tier.

    With ``is_real_time`` an idle engine waits as long as its workflows' tools do; without, its clock jumps.
    """

    def __init__(
        self,
        env: simpy.Environment,
        tiers: Tiers,
        on_load_end: Callable[[Load], None],
        tables: PageTables,
        transfers: Transfers | None,
        pace: Pace,
        block_bytes: int,
        *,
        is_real_time: bool = False,
    ) -> None:
        self.block_bytes = block_bytes
        self._env, self._tiers, self._on_load_end = env, tiers, on_load_end
        self._tables, self._transfers, self._pace = tables, transfers, pace
        self._is_real_time = is_real_time
        self._loads: dict[Transfer, _InFlight] = {}
        self._offloads: dict[Transfer, _InFlight] = {}
        self._num_delayed, self._delayed_s = 0, 0.0

    # ------------------------------------------------------------------ what is asked

    @property
    def num_prefetching(self) -> int:
        return sum(not flight.is_awaited for flight in self._loads.values())

    @property
    def h2d_bytes_per_s(self) -> float:
        return _FIRST_GUESS if self._transfers is None else _bytes_per_s(self._transfers.h2d)

    @property
    def busy_s(self) -> tuple[float, float]:
        found = self._transfers
        return (0.0, 0.0) if found is None else (found.h2d.busy_s, found.d2h.busy_s)

    @property
    def delayed(self) -> tuple[int, float]:
        return self._num_delayed, self._delayed_s

    @property
    def may_offload_early(self) -> bool:
        return not self._offloads

    @property
    def next_load_end_s(self) -> float:
        return self._expected_end_s(self._loads, self._both.h2d) if self._loads else float("inf")

    @property
    def next_offload_end_s(self) -> float:
        return self._expected_end_s(self._offloads, self._both.d2h) if self._offloads else float("inf")

    # ------------------------------------------------------------------ what is to be done

    def start_load(self, load: Load) -> None:
        self._start_up(load, URGENT)

    def start_prefetch(self, load: Load) -> None:
        self._start_up(load, AHEAD)

    def make_urgent(self, load: Load) -> None:
        for transfer, flight in self._loads.items():
            if flight.copy is load and not flight.is_awaited:
                flight.is_awaited = True
                self._both.h2d.make_urgent(transfer)

    def take_back_prefetches(self) -> list[Load]:
        taken = []
        for transfer, flight in reversed(list(self._loads.items())):
            copy = flight.copy
            if isinstance(copy, Load) and not flight.is_awaited:
                if not self._both.take_back(self._both.h2d, transfer):
                    break
                self._end_flight(self._loads, transfer)
                taken.append(copy)
        return taken

    def start_offloads(self) -> None:
        if self._tiers.offloads:
            for offload in self._tiers.take_offloads():
                source, target = self._tables.on_gpu(offload.nodes), self._tables.on_host(offload.nodes)
                transfer = Transfer(source, target, URGENT)
                self._begin(self._offloads, _InFlight(offload, transfer, offload.evicts))
                self._both.submit(self._both.d2h, transfer)

    def end_copies(self) -> bool:
        has_offload = False
        for transfer in self._transfers.take_ended() if self._transfers else ():
            is_load = transfer in self._loads
            flight = self._end_flight(self._loads if is_load else self._offloads, transfer)
            self._log(flight)
            if isinstance(flight.copy, Load):
                self._on_load_end(flight.copy)
            else:
                self._tiers.end_offload(flight.copy, self._instant(transfer.ended_at_s))
                has_offload = True
        return has_offload

    def next_end_s(self) -> float | None:
        if self._transfers is None or not self._transfers.num_in_flight:
            return None
        self._transfers.wait(_LONGEST_WAIT_S)
        return self._pace.lap()

    def idle_s(self, wants_offloads: bool) -> float | None:
        next_event_s = self._env.peek()
        is_copying = self._transfers is not None and self._transfers.num_in_flight > 0
        if not is_copying and (not self._is_real_time or next_event_s == float("inf")):
            self._pace.lap()  # what the scheduler took is not the workload's time
            return None
        ahead_s = min(max(next_event_s - self._env.now - self._pace.since_s, 0.0), _LONGEST_WAIT_S)
        if self._transfers is not None:
            self._transfers.wait(ahead_s)
        else:
            sleep(ahead_s)
        return self._pace.lap()

    # ------------------------------------------------------------------

    @property
    def _both(self) -> Transfers:
        if self._transfers is None:
            raise ValueError("a copy without a host tier")
        return self._transfers

    def _start_up(self, load: Load, priority: int) -> None:
        transfer = Transfer(self._tables.on_host(load.nodes), self._tables.on_gpu(load.nodes), priority)
        is_urgent = priority == URGENT
        found_ahead = is_urgent and self._both.h2d.is_ahead
        self._begin(self._loads, _InFlight(load, transfer, is_urgent, found_ahead))
        self._both.submit(self._both.h2d, transfer)

    def _begin(self, flights: dict[Transfer, _InFlight], flight: _InFlight) -> None:
        flights[flight.transfer] = flight
        self._tables.copy_begun(*_gpu_and_host(flight), is_up=flights is self._loads)

    def _end_flight(self, flights: dict[Transfer, _InFlight], transfer: Transfer) -> _InFlight:
        flight = flights.pop(transfer)
        self._tables.copy_ended(*_gpu_and_host(flight))
        return flight

    def _log(self, flight: _InFlight) -> None:
        transfer, event = flight.transfer, flight.copy.event
        begun_s, ended_s = transfer.begun_at_s or 0.0, transfer.ended_at_s or 0.0
        if flight.found_ahead:
            self._num_delayed += 1
            self._delayed_s += begun_s - transfer.submitted_at_s
        self._tiers.events.append(
            event._replace(
                num_bytes=event.num_blocks * self.block_bytes,
                queued_s=begun_s - transfer.submitted_at_s,
                copy_s=ended_s - begun_s,
            )
        )

    def _instant(self, machine_s: float | None) -> float:
        """The run's instant of an instant of the machine that has just gone by."""
        ago_s = 0.0 if machine_s is None else self._pace.now_s - machine_s
        return self._env.now - max(ago_s, 0.0)

    def _expected_end_s(self, flights: dict[Transfer, _InFlight], lane: Lane) -> float:
        """When ``lane``'s next copy ends if it keeps its pace: the most urgent, of these the oldest."""
        transfer = min(flights, key=lambda each: (not each.has_ended, each.priority, each.number))
        num_left = len(transfer.source) - transfer.num_done
        return self._env.now + num_left * self.block_bytes / _bytes_per_s(lane)


def _bytes_per_s(lane: Lane) -> float:
    return lane.num_bytes / lane.busy_s if lane.busy_s else _FIRST_GUESS


def _gpu_and_host(flight: _InFlight) -> tuple[PageIds, PageIds]:
    transfer = flight.transfer
    if isinstance(flight.copy, Load):
        return transfer.target, transfer.source
    return transfer.source, transfer.target
