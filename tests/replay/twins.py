"""A model's twin that remembers tokens, and a link's in virtual time: what the replay is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import simpy
import torch

from pbkv.cache.config import CacheConfig
from pbkv.cache.decisions import Load
from pbkv.cache.tiers import Tiers
from pbkv.replay.batch import Slice
from pbkv.replay.copies import RealCopies
from pbkv.replay.pace import Pace
from pbkv.replay.page_tables import PageTables
from pbkv.replay.pool import PageShape, Pool, copy_runs
from pbkv.replay.transfers import URGENT, Transfer, Transfers
from pbkv.replay.worker import ModelWorker
from pbkv.serve.decoding import Decoding
from pbkv.serve.world import World
from pbkv.sim.background import Background, BackgroundCopy
from pbkv.sim.link import Link
from pbkv.sim.profile import HardwareProfile

Fingerprints = npt.NDArray[np.uint64]
VOCABULARY = 1 << 20
CPU = torch.device("cpu")


def fingerprints(tokens: npt.NDArray[np.int64]) -> Fingerprints:
    """[n]: a number for each token that depends on it and on all before it."""
    places = np.arange(len(tokens), dtype=np.uint64)
    mixed = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ (
        places * np.uint64(0xBF58476D1CE4E5B9)
    )
    return np.cumsum(mixed * mixed)


def fingerprint_pool(num_pages: int, page_size: int) -> Pool:
    """A pool whose tokens hold two int64: the first is for the fingerprint."""
    return Pool(PageShape(1, page_size, 1, 1, torch.int64), max(num_pages, 1), CPU)


class RememberingRunner:
    """Keeps each token's fingerprint in the pages; a context that is not the request's own prefix fails."""

    def __init__(self, pool: Pool, on_run: Callable[[], None] = lambda: None) -> None:
        self._pool, self._on_run = pool, on_run
        self.num_checked = 0

    def run(self, batch: Sequence[Slice], *, want_hidden: bool = False) -> None:
        for part in batch:
            self._check_and_write(part, len(part.tokens))

    def decode_run(self, batch: Sequence[Slice], num_iterations: int, tokens: npt.NDArray[np.int64]) -> None:
        for number, part in enumerate(batch):
            known = self._known(part)[part.start : part.start + num_iterations]
            assert np.array_equal(tokens[:, number], known)
            self._check_and_write(part, num_iterations)

    def synchronize(self) -> None:
        self._on_run()

    def _known(self, part: Slice) -> npt.NDArray[np.int64]:
        whole = part.tokens.base  # a slice is a view of the call's prompt and answer
        assert isinstance(whole, np.ndarray)
        return cast("npt.NDArray[np.int64]", whole)

    def _check_and_write(self, part: Slice, num_tokens: int) -> None:
        expected = fingerprints(self._known(part)).view(np.int64)
        size, end = self._pool.shape.page_size, part.start + num_tokens
        pages = torch.from_numpy(part.pages[: -(-end // size)].astype(np.int64))
        held = self._pool.pages[:, 0, 0, :, 0, 0]
        found = held[pages].reshape(-1)[: part.start].numpy()
        assert np.array_equal(found, expected[: part.start])
        self.num_checked += part.start
        places = np.arange(part.start, end)
        held[pages[places // size], places % size] = torch.from_numpy(expected[part.start : end].copy())


class VirtualPace(Pace):
    """A clock that stands still but for what the cost model says."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._lap_s = 0.0

    @property
    def now_s(self) -> float:
        return self._env.now

    @property
    def since_s(self) -> float:
        return 0.0

    def pass_by(self, seconds: float) -> None:
        self._lap_s += seconds

    def lap(self) -> float:
        lap_s, self._lap_s = self._lap_s, 0.0
        return lap_s


class VirtualLane:
    """One direction: the simulator's link, with the bytes really copied when the copy ends."""

    def __init__(self, link: Link, source: Pool, target: Pool) -> None:
        self.link, self.source, self.target = link, source, target
        self.is_ahead = False

    @property
    def busy_s(self) -> float:
        return self.link.busy_s

    @property
    def num_bytes(self) -> int:
        return self.link.num_bytes


class VirtualTransfers:
    """`Transfers` in the simulator's time: urgent copies in order, prefetches in slices when it is idle."""

    def __init__(self, env: simpy.Environment, pace: VirtualPace, profile: HardwareProfile, block_bytes: int):
        self._env, self._pace, self._block_bytes = env, pace, block_bytes
        h2d, d2h = Link(profile.link.h2d_s), Link(profile.link.d2h_s)
        h2d.other, d2h.other = d2h, h2d
        self._links = h2d, d2h
        self.background = Background[Transfer](env, h2d, self._end_background)
        self.in_flight: list[Transfer] = []  # those whose end is known

    def connect(self, gpu: Pool, host: Pool) -> None:
        self.h2d = VirtualLane(self._links[0], host, gpu)
        self.d2h = VirtualLane(self._links[1], gpu, host)
        self.h2d.make_urgent = self._make_urgent  # type: ignore[attr-defined]
        self._lane_of: dict[Transfer, VirtualLane] = {}

    @property
    def num_in_flight(self) -> int:
        return len(self._lane_of)

    def submit(self, lane: VirtualLane, transfer: Transfer) -> None:
        self._lane_of[transfer] = lane
        if transfer.priority == URGENT:
            self._serve(lane, transfer, self._size(transfer))
        else:
            self.background.submit(transfer, self._size(transfer))

    def take_back(self, lane: VirtualLane, transfer: Transfer) -> bool:
        queue = self.background._queue
        if not queue or queue[-1].item is not transfer or queue[-1].begun_at_s is not None:
            return False
        queue.pop()
        del self._lane_of[transfer]
        return True

    def take_ended(self) -> list[Transfer]:
        ended = [t for t in self.in_flight if t.ended_at_s is not None and t.ended_at_s <= self._env.now]
        for transfer in ended:
            lane = self._lane_of.pop(transfer)
            copy_runs(lane.source, lane.target, transfer.source, transfer.target)
            self.in_flight.remove(transfer)
        return sorted(ended, key=lambda transfer: transfer.ended_at_s or 0.0)

    def wait(self, seconds: float | None = None) -> None:
        ends_s = [t.ended_at_s or 0.0 for t in self.in_flight]
        next_s = min([*ends_s, self.background.next_event_s]) - self._env.now
        self._pace.pass_by(max(0.0, next_s if seconds is None else min(seconds, next_s)))

    def next_end_s(self, lane: VirtualLane) -> float:
        ends_s = [t.ended_at_s or 0.0 for t in self.in_flight if self._lane_of[t] is lane]
        return min(ends_s, default=float("inf"))

    def _size(self, transfer: Transfer) -> int:
        return len(transfer.source) * self._block_bytes

    def _make_urgent(self, transfer: Transfer) -> None:
        copy = self.background.make_urgent(transfer)
        if copy is not None:
            self._finish_urgently(copy)

    def _end_background(self, copy: BackgroundCopy[Transfer]) -> None:
        if copy.left_bytes:
            self._finish_urgently(copy)
            return
        copy.item.begun_at_s, copy.item.ended_at_s = copy.begun_at_s, self._env.now
        self.in_flight.append(copy.item)

    def _finish_urgently(self, copy: BackgroundCopy[Transfer]) -> None:
        self._serve(self.h2d, copy.item, copy.left_bytes)
        copy.item.begun_at_s = copy.item.begun_at_s if copy.begun_at_s is None else copy.begun_at_s

    def _serve(self, lane: VirtualLane, transfer: Transfer, num_bytes: int) -> None:
        transfer.begun_at_s, transfer.ended_at_s = lane.link.submit(num_bytes, self._env.now)
        transfer.submitted_at_s = self._env.now
        self.in_flight.append(transfer)


class VirtualCopies(RealCopies):
    """The replay's copies, which know here when a copy will end, as the simulator does."""

    def know(self, transfers: VirtualTransfers, bytes_per_s: float) -> VirtualCopies:
        self._virtual, self._nominal = transfers, bytes_per_s
        return self

    @property
    def h2d_bytes_per_s(self) -> float:
        link = self._virtual.h2d.link
        return link.num_bytes / link.busy_s if link.busy_s else self._nominal

    @property
    def may_offload_early(self) -> bool:
        return not self._virtual.d2h.link.is_busy_at(self._env.now)

    @property
    def next_load_end_s(self) -> float:
        return min(self._virtual.next_end_s(self._virtual.h2d), self._virtual.background.next_event_s)

    @property
    def next_offload_end_s(self) -> float:
        return self._virtual.next_end_s(self._virtual.d2h)


class CostedWorker(ModelWorker):
    """The replay's worker, whose iterations take what the cost model says."""

    def cost_by(self, profile: HardwareProfile, pace: VirtualPace) -> CostedWorker:
        self._cost, self._virtual_pace = profile.cost, pace
        return self

    def iteration_s(self, chunks: Any, decoding: Decoding) -> float:
        work = sum(n * (request.num_computed + n / 2) for request, n in chunks)
        gathered = sum(request.num_computed + n for request, n in chunks)
        num_tokens = decoding.num_sequences + sum(n for _, n in chunks)
        size = decoding.num_sequences + len(chunks)
        self._virtual_pace.pass_by(self._cost.iteration_s(num_tokens, size, work, gathered, decoding.context))
        return super().iteration_s(chunks, decoding)

    def decodes_s(self, decoding: Decoding, num_iterations: int) -> float:
        seconds = self._cost.decode_run_s(decoding.num_sequences, decoding.context, num_iterations)
        self._virtual_pace.pass_by(seconds)
        return super().decodes_s(decoding, num_iterations)

    def decodes_until(self, decoding: Decoding, seconds: float) -> int:
        return self._cost.decode_iterations_until(decoding.num_sequences, decoding.context, seconds)

    def expected_decode_s(self, decoding: Decoding) -> float:
        return self._cost.decode_run_s(decoding.num_sequences, decoding.context, 1)


@dataclass(frozen=True)
class TwinWorld:
    world: World
    tables: PageTables
    runner: RememberingRunner


def virtual_world(cache: CacheConfig, profile: HardwareProfile) -> TwinWorld:
    """The replay's engine without a model and without waiting: its time is the simulator's."""
    env = simpy.Environment()
    pace, tables = VirtualPace(env), PageTables(cache.gpu_blocks, cache.host_blocks)
    gpu = fingerprint_pool(cache.gpu_blocks, cache.block_size)
    runner = RememberingRunner(gpu)
    worker = CostedWorker(runner, tables, pace, cache.block_size, VOCABULARY, lambda iteration: None)
    block_bytes = cache.block_size * profile.kv_bytes_per_token
    transfers = VirtualTransfers(env, pace, profile, block_bytes)
    transfers.connect(gpu, fingerprint_pool(cache.host_blocks, cache.block_size))

    def copies(tiers: Tiers, on_load_end: Callable[[Load], None]) -> RealCopies:
        real = cast("Transfers", transfers)
        made = VirtualCopies(env, tiers, on_load_end, tables, real, pace, block_bytes)
        return made.know(transfers, profile.link.h2d_bytes_per_s)

    return TwinWorld(World(env, worker.cost_by(profile, pace), copies, tables), tables, runner)
