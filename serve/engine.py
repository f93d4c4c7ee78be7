"""The engine: continuous batching over the cache manager, one event an iteration, in whatever world.

Modelled on vLLM's scheduler: decodes first, then prefill chunks up to a token budget; requests are
admitted while budget, sequences and blocks last; the one that became ready last is preempted (and
computed again) when decoding finds no block. A request whose prefix is being loaded waits for its
copies while others run.

Pure decode iterations are fused: between two events of the simulation nothing can change but each
sequence's length, so a run of them is one event with a closed-form duration. ``fuse=False`` walks
token by token instead and must give the same times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from simpy.events import Event

from pbkv.cache.decisions import Admission, Load
from pbkv.cache.manager import CacheManager
from pbkv.cache.prefetch import Situation
from pbkv.serve.config import EngineConfig
from pbkv.serve.decoding import Decoding
from pbkv.serve.request import Request
from pbkv.serve.world import Chunk, Forecasts, World
from pbkv.traces.errors import InvariantError

if TYPE_CHECKING:
    from pbkv.cache.scheduling import RequestOrder

_LPM_MAX_WAITING = 128  # beyond it longest-prefix-match turns into fcfs (SGLang)
_AFTER_ARRIVALS = 2  # simpy priority: at equal instants, arrivals and copies come before an iteration's end


class Engine:
    """One replica. ``on_end`` is called with each request at the instant its last token is out.

    ``on_sample`` is called between iterations, at most once every ``sample_every_s``.
    """

    def __init__(
        self,
        world: World,
        manager: CacheManager,
        config: EngineConfig,
        forecasts: Forecasts | None = None,
    ) -> None:
        self.env = world.env
        self.manager = manager
        self.config = config
        self.worker = world.worker
        self._mixes = config.batching == "mixed"
        self.copies = world.copies(manager.tiers, self._end_load)
        self._forecasts = forecasts
        self.waiting: deque[Request] = deque()
        self.running: dict[Request, None] = {}  # admitted and not waiting for a copy, oldest first
        self.num_loading = 0
        self.num_iterations = 0
        self.num_preemptions = 0
        self.on_end: Callable[[Request], None] = _ignore
        self.on_sample: Callable[[], None] = _nothing
        self.sample_every_s = float("inf")
        self._sample_at_s = 0.0
        self._prefilling: dict[Request, None] = {}
        self._decoding = Decoding(manager.config.block_size)
        self._beside_prefill = self._decoding if self._mixes else Decoding(manager.config.block_size)
        self._blocked = False  # the head of the queue was refused for lack of blocks …
        self._retry = True  # … and something has changed since
        self._ask_again_s = float("inf")  # when the policy may admit whom it now does not
        self.num_pure_decodes = 0  # iterations without prefill so far …
        self._pure_decode_s = 0.0  # … and their seconds
        self._wake: Event | None = None
        self.env.process(self._run())

    @property
    def _is_fcfs(self) -> bool:
        """Whether the head of the queue alone decides what can start."""
        policy = self.manager.policy
        return self.config.request_order == "fcfs" and not (policy.admission or policy.request_order)

    @property
    def _prefill_budget(self) -> int:
        """Tokens of an iteration that prefill may take."""
        return self.config.max_batched_tokens - (self._decoding.num_sequences if self._mixes else 0)

    @property
    def decode_iteration_s(self) -> float | None:
        """Mean of the iterations without prefill so far."""
        return self._pure_decode_s / self.num_pure_decodes if self.num_pure_decodes else None

    @property
    def num_running(self) -> int:
        return len(self.running) + self.num_loading

    def submit(self, request: Request) -> None:
        """Queue ``request``; it is considered when the iteration in progress ends."""
        self.waiting.append(request)
        self._retry = self._retry or not self._is_fcfs
        self.manager.call_submitted(request.described, request.position, self.env.now)
        self._wake_up()

    # ------------------------------------------------------------------ the loop

    def _run(self) -> Generator[Event, None, None]:
        while True:
            if self.env.now >= self._sample_at_s:
                self._sample()
            if self._forecasts is not None:
                self._take_forecasts(self._forecasts)
            self._admit()
            has_room = self._reserve_next_token() if self._mixes or not self._prefilling else True
            self._offload_early()
            if not has_room:
                yield self._next_copy()
                self._end_copies()
            elif self._prefilling:
                self._prefetch()
                chunks = self._plan_chunks()
                yield self._boundary(self.worker.iteration_s(chunks, self._beside_prefill))
                self._end_copies()
                self.num_iterations += 1
                if self._mixes:
                    self._advance_decodes(1)
                self._advance_prefills(chunks)
            elif self._decoding.num_sequences:
                self._prefetch()
                num_iterations = self._plan_decodes()
                seconds = self.worker.decodes_s(self._decoding, num_iterations)
                self._pure_decode_s += seconds
                self.num_pure_decodes += num_iterations
                yield self._boundary(seconds)
                self._end_copies()
                self.num_iterations += num_iterations
                self._advance_decodes(num_iterations)
            else:
                yield self._idle()
                self._end_copies()

    def _sample(self) -> None:
        self._sample_at_s = self.env.now + self.sample_every_s
        self.on_sample()

    def _take_forecasts(self, forecasts: Forecasts) -> None:
        """Those that have come: the policy looks ahead again, as it does at once where none is late."""
        for request in forecasts.take():
            self.manager.call_foreseen(request.described, request.position, self.env.now)
            self._retry = self._retry or not self._is_fcfs

    def _boundary(self, seconds: float) -> Event:
        """The end of an iteration (or run of them) that starts now."""
        event = Event(self.env)
        event._ok, event._value = True, None
        self.env.schedule(event, _AFTER_ARRIVALS, seconds)  # type: ignore[arg-type] # any int is a priority
        return event

    def _idle(self) -> Event:
        """Nothing can run: wait for an arrival, a load, or the copy whose end gives the queue room."""
        if self._forecasts is not None and self._forecasts.num_under_way:
            self._forecasts.wait()  # before the clock may jump: they are a matter of milliseconds
            return self._boundary(0.0)
        if self._blocked and not self.num_loading:
            return self._next_copy()
        wait_s = self.copies.idle_s(self._blocked or self.manager.tiers.copies_early)
        if wait_s is not None:
            return self._boundary(wait_s)
        self._wake = Event(self.env)
        return self._wake

    def _next_copy(self) -> Event:
        """The end of the next copy: an offload frees blocks, and what was loaded can be preempted."""
        wait_s = self.copies.next_end_s()
        if wait_s is None:
            raise InvariantError("the engine is stuck: no block is free, evictable or on its way out")
        return self._boundary(wait_s)

    def _end_copies(self) -> None:
        if self.copies.end_copies():
            self._retry = True

    def _wake_up(self) -> None:
        if self._wake is not None:
            wake, self._wake = self._wake, None
            wake._ok, wake._value = True, None
            self.env.schedule(wake, _AFTER_ARRIVALS)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ admission and copies

    def _admit(self) -> None:
        """Start waiting requests while tokens, sequences and blocks last."""
        if not self.waiting or (self._blocked and not self._may_retry() and self.config.fuse):
            return
        self._blocked = self._retry = False
        budget = self._prefill_budget
        budget -= sum(request.num_target - request.num_computed for request in self._prefilling)
        while self.waiting and budget > 0 and self.num_running < self.config.max_sequences:
            request = self._next_to_start()
            if request is None:
                break
            admission = self._admission_of(request)
            if admission is None:
                self._blocked = True
                break
            self.waiting.remove(request)
            self._start(request, admission)
            if not request.num_loads:
                budget -= request.num_target - request.num_computed
        self.copies.start_offloads()

    def _may_retry(self) -> bool:
        """Whether the request that was refused might not be now, or might have more room made for it."""
        return self._retry or self.manager.tiers.is_making_room or self.env.now >= self._asks_again_s

    @property
    def _asks_again_s(self) -> float:
        """When the policy is to be asked again; not as long as nobody could start anyway."""
        return self._ask_again_s if self.num_running < self.config.max_sequences else float("inf")

    def _next_to_start(self) -> Request | None:
        """Who is first in order among those whom the policy admits; an idle engine starts somebody."""
        rule, order, now_s = self.manager.policy.admission, self.manager.policy.request_order, self.env.now
        is_fcfs = self.config.request_order == "fcfs" or len(self.waiting) > _LPM_MAX_WAITING
        admitted: Sequence[Request] = self.waiting
        if rule is not None:
            ranked = self.waiting if order is None else sorted(self.waiting, key=self._rank(order))
            admits = (request for request in ranked if rule.admits(request, self.manager, now_s))
            admitted = list(islice(admits, 1) if is_fcfs or order is not None else admits)
            self._ask_again_s = rule.next_change_s()
            if not admitted:
                return None if self.num_running else self.waiting[0]
        if order is not None:
            return min(admitted, key=self._rank(order))
        if is_fcfs:
            return admitted[0]
        cached_blocks = self.manager.cached_blocks
        return max(admitted, key=lambda request: cached_blocks(request.path))

    def _rank(self, order: RequestOrder) -> Callable[[Request], Any]:
        key, manager, now_s = order.key, self.manager, self.env.now
        return lambda request: key(request, manager, now_s)

    def _admission_of(self, request: Request) -> Admission | None:
        """Its blocks and copies; what was to be prefetched gives way if need be."""
        workflow_id, agent = request.workflow.workflow_id, request.agent
        while True:
            admission = self.manager.admit(request.path, workflow_id, self.env.now, request.num_target, agent)
            if admission is not None or not self._cancel_prefetches():
                return admission

    def _start(self, request: Request, admission: Admission) -> None:
        now_s = self.env.now
        request.num_computed = admission.cached_tokens
        if request.num_preemptions:
            request.num_recomputed += request.num_target - request.num_computed
        else:
            request.admission = admission
            request.misses = self.manager.misses(admission.lease, now_s)
            request.admitted_at_s = request.ready_at_s = now_s
        request.lease = admission.lease
        loads = admission.waits_for
        if admission.load is not None:
            self.copies.start_load(admission.load)
            loads = [*loads, admission.load]
        for load in loads:
            load.waiters.append(request)
            self.copies.make_urgent(load)
        request.num_loads = len(loads)
        if loads:
            self.num_loading += 1
        else:
            self._make_ready(request)

    def _make_ready(self, request: Request) -> None:
        self.running[request] = None
        self._prefilling[request] = None

    def _end_load(self, load: Load) -> None:
        self.manager.end_load(load)
        for request in load.waiters:
            request.num_loads -= 1
            if not request.num_loads:
                self.num_loading -= 1
                if not request.num_preemptions:
                    request.ready_at_s = self.env.now
                self._make_ready(request)
        load.waiters.clear()
        self._retry = True
        self._wake_up()

    # ------------------------------------------------------------------ copies ahead of need

    def _offload_early(self) -> None:
        """An idle link copies down what is about to be evicted."""
        tiers = self.manager.tiers
        if tiers.copies_early and self.copies.may_offload_early:
            tiers.offload_early(self.env.now)
            self.copies.start_offloads()

    def _prefetch(self) -> None:
        """Copy up ahead what the policy wants, unless somebody waits for blocks."""
        if self.manager.policy.prefetch is None or self._blocked:
            return
        situation = Situation(not self._prefilling, self._step_blocks(), self.copies.num_prefetching)
        for load in self.manager.prefetch(situation, self.env.now):
            self.copies.start_prefetch(load)
        self.copies.start_offloads()

    def _step_blocks(self) -> int:
        """Blocks that the link copies during one decode iteration (paper §4.3: S_bw), by running means."""
        step_s = self.decode_iteration_s or self.worker.expected_decode_s(self._decoding)
        return int(step_s * self.copies.h2d_bytes_per_s / self.copies.block_bytes)

    def _cancel_prefetches(self) -> bool:
        """Take back the prefetches whose copies have not begun; whether there were any."""
        taken = self.copies.take_back_prefetches()
        for load in taken:
            self.manager.cancel(load, self.env.now)
        return bool(taken)

    # ------------------------------------------------------------------ prefill

    def _plan_chunks(self) -> list[Chunk]:
        """(request, tokens) of the next iteration's prefill, in order of admission."""
        budget, chunks = self._prefill_budget, []
        for request in self._prefilling:
            num_tokens = min(budget, request.num_target - request.num_computed)
            chunks.append((request, num_tokens))
            budget -= num_tokens
            if not budget:
                break
        return chunks

    def _advance_prefills(self, chunks: list[Chunk]) -> None:
        for request, num_tokens in chunks:
            request.num_computed += num_tokens
            if request.num_computed == request.num_target:
                self._end_prefill(request)
        self.copies.start_offloads()

    def _end_prefill(self, request: Request) -> None:
        del self._prefilling[request]
        self.manager.commit(request.lease, self.env.now, request.num_target)
        self._retry = True  # what waits may find more, and so need less
        if not request.num_generated:
            request.first_token_at_s = self.env.now
            self.manager.call_computed(request.described, request.position, self.env.now)
        request.num_generated += 1
        if request.num_generated >= request.call.num_output_tokens:
            self._end(request)
        else:
            self._decoding.start(request)

    # ------------------------------------------------------------------ decode

    def _reserve_next_token(self) -> bool:
        """Take the blocks the next decode iteration needs, preempting if need be. False: wait for a copy."""
        while needed := self._decoding.blocks_needed:
            if self.manager.tiers.free_blocks >= needed:  # nobody's need: nothing is evicted
                return self.manager.grow(needed, "", self.env.now)
            has_grown = self.manager.grow(needed, self._growing_workflow(), self.env.now)
            self.copies.start_offloads()
            self._retry = self._retry or not self._is_fcfs  # another may be first now
            if has_grown:
                return True
            if self._cancel_prefetches():
                continue
            if self.manager.tiers.is_making_room or len(self.running) == 1:
                return False
            self._preempt(next(reversed(self.running)))
        return True

    def _growing_workflow(self) -> str:
        growing = (
            r for r in self.running if r not in self._prefilling and self._decoding.takes_a_block_next(r)
        )
        return next(growing).workflow.workflow_id

    def _plan_decodes(self) -> int:
        """How many decode iterations go by before anything but lengths can change; takes their blocks."""
        if not self.config.fuse or (self.waiting and self._may_retry()):
            return 1
        prefetches = self.manager.policy.prefetch is not None
        if prefetches and (self.manager.is_clearing_ahead or not self._step_blocks()):
            return 1  # the next iteration may do what this one could not: clear more, or hide a block
        if prefetches and self._forecasts is not None and self._forecasts.num_under_way:
            return 1  # what it may copy ahead is about to be known
        decoding = self._decoding
        most = decoding.iterations_to_first_end
        horizon_s = self._horizon_s()
        if horizon_s < float("inf"):
            most = min(most, self.worker.decodes_until(decoding, horizon_s - self.env.now))
        if most == 1:
            return 1
        extra, num_blocks = decoding.growth_within(most - 1, self.manager.tiers.free_blocks)
        self.manager.grow(num_blocks, "", self.env.now)
        return 1 + extra

    def _horizon_s(self) -> float:
        """The next instant at which the batch may change but by its own doing.

        An arrival changes nothing while the queue's head waits for blocks or all sequences are taken.
        """
        copies, tiers = self.copies, self.manager.tiers
        copies_ahead = self.manager.policy.prefetch is not None or tiers.copies_early
        waits_for_blocks = self._blocked and self._is_fcfs
        if not copies_ahead and (waits_for_blocks or self.num_running >= self.config.max_sequences):
            horizon_s = copies.next_load_end_s
        else:
            horizon_s = min(self.env.peek(), copies.next_load_end_s)
        if self.waiting:
            horizon_s = min(horizon_s, self._asks_again_s)
        if copies_ahead:
            horizon_s = min(horizon_s, tiers.next_due_s())
        if self._blocked or copies_ahead:
            horizon_s = min(horizon_s, copies.next_offload_end_s)
        return horizon_s

    def _advance_decodes(self, num_iterations: int) -> None:
        if self._decoding.num_sequences:
            for request in self._decoding.advance(num_iterations):
                self._end(request)
            self.copies.start_offloads()

    # ------------------------------------------------------------------ end and preemption

    def _end(self, request: Request) -> None:
        call, now_s = request.call, self.env.now
        answer = None
        if call.output_id is not None and call.num_output_tokens > 1:
            answer = self.manager.table.extended(request.path, call.output_id, call.num_output_tokens - 1)
        del self.running[request]
        self.manager.finish(request.lease, answer, request.num_held_tokens, now_s)
        request.ended_at_s = now_s
        self._retry = True
        self.manager.call_ended(request.described, request.position, now_s)
        self.on_end(request)

    def _preempt(self, request: Request) -> None:
        """Take the blocks of ``request`` away; it goes to the head of the queue and is computed again."""
        del self.running[request]
        if request in self._prefilling:
            del self._prefilling[request]
            held = request.num_target
        else:
            self._decoding.remove(request)
            held = request.num_held_tokens
        self.manager.preempt(request.lease, held)
        request.num_target = request.num_prompt_tokens + request.num_generated
        request.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(request)
        self._retry = True


def _ignore(request: Request) -> None:
    """Nobody waits for the end of a request."""


def _nothing() -> None:
    """Nobody wants samples."""
