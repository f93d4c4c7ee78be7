"""The replay's worker: an iteration is a forward pass of the model, and takes as long as it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pbkv.predict.live import LiveCalls
from pbkv.replay.batch import Slice
from pbkv.replay.memory import memory_errors
from pbkv.replay.tokens import tokens_of

if TYPE_CHECKING:
    from pbkv.replay.forecasts import SideForecasts
    from pbkv.replay.pace import Pace
    from pbkv.replay.page_tables import LeasePages, PageTables
    from pbkv.serve.decoding import Decoding
    from pbkv.serve.request import Request
    from pbkv.serve.world import Chunk

Tokens = npt.NDArray[np.int64]
_LONGEST_RUN = 32  # pure decode iterations without a look at what has come in
_FIRST_GUESS_S = 0.01
_NEW_WEIGHT = 0.2  # of the last run in the running mean of decode times


class Runner(Protocol):
    """What of `ModelRunner` is used; a test's twin takes the cost model's time instead."""

    def run(self, batch: Sequence[Slice], *, want_hidden: bool = False) -> Any: ...
    def decode_run(self, batch: Sequence[Slice], num_iterations: int, tokens: Tokens) -> Any: ...
    def synchronize(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Iteration:
    """What was run and how long it took: a line of the table ``iterations`` (`pbkv.traces.records`).

    ``cpu_s`` of ``seconds`` went by before the forward pass was enqueued; a run of decodes is one line.
    """

    num_iterations: int
    num_tokens: int
    num_sequences: int
    num_prefill_tokens: int
    prefill_work: float
    gathered_tokens: int
    decode_context: int
    seconds: float
    cpu_s: float


class ModelWorker:
    """Runs iterations on ``runner``; ``tables`` say where keys and values lie.

    Every iteration is waited for, so that what it freed may be copied into at once. ``vocabulary`` is the
    number of token ids. Calls that are `LiveCalls` are shown the hidden state, after the last norm, of
    their prompt's last token, before the engine says that the prompt is computed; or it stays on the device,
    for `forecast_beside`.
    """

    def __init__(
        self,
        runner: Runner,
        tables: PageTables,
        pace: Pace,
        page_size: int,
        vocabulary: int,
        on_iteration: Callable[[Iteration], None],
    ) -> None:
        self._runner, self._tables, self._pace = runner, tables, pace
        self._page_size, self._vocabulary, self._on_iteration = page_size, vocabulary, on_iteration
        self._decode_s: float | None = None
        self._forecasts: SideForecasts | None = None
        self._shows = True

    def forecast_beside(self, forecasts: SideForecasts, *, shows: bool) -> None:
        """Give hidden states to ``forecasts`` from now on, and show them too if ``shows``."""
        self._forecasts, self._shows = forecasts, shows

    # ------------------------------------------------------------------ a worker's duties

    def iteration_s(self, chunks: Sequence[Chunk], decoding: Decoding) -> float:
        with memory_errors():
            decodes = [self._decode_slice(request, made) for request, made in decoding.requests()]
            prefills = [self._prefill_slice(request, num_tokens) for request, num_tokens in chunks]
            cpu_s = self._pace.since_s
            asking = completed_prompts(chunks)
            outcome = self._runner.run([*decodes, *prefills], want_hidden=bool(asking))
            hidden = [outcome.hidden[len(decodes) + number] for number, _ in asking]
            if asking and self._forecasts is not None:
                self._forecasts.start([request for _, request in asking], hidden)
            self._runner.synchronize()
            if asking and self._shows:
                _show(hidden, [request for _, request in asking])
        seconds = self._pace.lap()
        self._on_iteration(_mixed(prefills, decoding, seconds, cpu_s))
        return seconds

    def decodes_s(self, decoding: Decoding, num_iterations: int) -> float:
        with memory_errors():
            requests = decoding.requests()
            batch = [self._decode_slice(request, made, num_iterations) for request, made in requests]
            tokens = np.stack(
                [
                    self._generated(request)[made - 1 : made - 1 + num_iterations]
                    for request, made in requests
                ],
                axis=1,
            )
            cpu_s = self._pace.since_s
            self._runner.decode_run(batch, num_iterations, tokens)
            self._runner.synchronize()
        seconds = self._pace.lap()
        self._learn(seconds / num_iterations)
        self._on_iteration(_decodes(decoding, num_iterations, seconds, cpu_s))
        return seconds

    def decodes_until(self, decoding: Decoding, seconds: float) -> int:
        wanted = -(-seconds // self.expected_decode_s(decoding))
        return max(1, min(_LONGEST_RUN, int(min(wanted, _LONGEST_RUN))))

    def expected_decode_s(self, decoding: Decoding) -> float:
        return _FIRST_GUESS_S if self._decode_s is None else self._decode_s

    # ------------------------------------------------------------------ slices

    def _prefill_slice(self, request: Request, num_tokens: int) -> Slice:
        start = request.num_computed
        end = start + num_tokens
        return Slice(self._tokens(request)[start:end], start, self._pages(request, end))

    def _decode_slice(self, request: Request, num_generated: int, num_iterations: int = 1) -> Slice:
        start = request.num_prompt_tokens + num_generated - 1  # the newest token is not in the cache yet
        tokens = self._tokens(request)[start : start + 1]
        return Slice(tokens, start, self._pages(request, start + num_iterations))

    def _pages(self, request: Request, num_tokens: int) -> npt.NDArray[np.int32]:
        return self._tables.of(request.lease, -(-num_tokens // self._page_size))

    def _generated(self, request: Request) -> Tokens:
        return self._tokens(request)[request.num_prompt_tokens :]

    def _tokens(self, request: Request) -> Tokens:
        """The call's prompt and answer, as the trace has them."""
        lease: LeasePages = self._tables.lease(request.lease)
        if lease.tokens is None:
            call = request.call
            ids, lengths = list(call.segment_ids), list(call.segment_tokens)
            answer_id = -1 - call.call_index if call.output_id is None else call.output_id
            lease.tokens = tokens_of([*ids, answer_id], [*lengths, call.num_output_tokens], self._vocabulary)
        return lease.tokens

    def _learn(self, decode_s: float) -> None:
        before = decode_s if self._decode_s is None else self._decode_s
        self._decode_s = before + _NEW_WEIGHT * (decode_s - before)


def completed_prompts(chunks: Sequence[Chunk]) -> list[tuple[int, Request]]:
    """The chunks that complete a prompt whose vector is wanted: their number, and the request."""
    return [
        (number, request)
        for number, (request, num_tokens) in enumerate(chunks)
        if isinstance(request.described.calls, LiveCalls)
        and not request.num_generated  # a preempted request's answer is behind its prompt
        and request.num_computed + num_tokens == request.num_target
    ]


def _show(hidden: Sequence[torch.Tensor], asking: Sequence[Request]) -> None:
    """Shows calls their ``hidden`` states [width], which are on the device: one copy to the host."""
    for row, request in zip(torch.stack(list(hidden)).float().cpu().numpy(), asking, strict=True):
        if isinstance(calls := request.described.calls, LiveCalls):
            calls.show(request.position, row.data.cast("B").cast("f"))


def _mixed(prefills: Sequence[Slice], decoding: Decoding, seconds: float, cpu_s: float) -> Iteration:
    lengths = np.array([len(part.tokens) for part in prefills])
    starts = np.array([part.start for part in prefills])
    return Iteration(
        num_iterations=1,
        num_tokens=decoding.num_sequences + int(lengths.sum()),
        num_sequences=decoding.num_sequences + len(prefills),
        num_prefill_tokens=int(lengths.sum()),
        prefill_work=float((lengths * (starts + lengths / 2)).sum()),
        gathered_tokens=int((starts + lengths).sum()),
        decode_context=decoding.context,
        seconds=seconds,
        cpu_s=cpu_s,
    )


def _decodes(decoding: Decoding, num_iterations: int, seconds: float, cpu_s: float) -> Iteration:
    size = decoding.num_sequences
    return Iteration(num_iterations, size, size, 0, 0.0, 0, decoding.context, seconds, cpu_s)
