"""The decoding sequences of a batch, as counts: so that many iterations can go by in one step."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbkv.serve.request import Request


class Decoding:
    """Sequences that generate one token an iteration each.

    A sequence's next iterations follow from two numbers fixed when it starts: the iteration at whose end
    its last token is out, and the residue (mod block size) of the iterations in which it takes a block.
    """

    def __init__(self, block_size: int) -> None:
        self.num_sequences = 0
        self.context = 0  # tokens that they hold, all together
        self._num_done = 0  # iterations so far
        self._ends: list[tuple[int, int, Request]] = []
        self._num_started = 0
        self._crossings = [0] * block_size  # sequences by residue

    @property
    def blocks_needed(self) -> int:
        """Blocks that the next iteration takes."""
        return self._crossings[self._num_done % len(self._crossings)]

    @property
    def iterations_to_first_end(self) -> int:
        return self._ends[0][0] - self._num_done

    def requests(self) -> list[tuple[Request, int]]:
        """Those that decode, in no certain order, and how many tokens each has generated so far."""
        return [
            (request, request.call.num_output_tokens - (end - self._num_done))
            for end, _, request in self._ends
        ]

    def start(self, request: Request) -> None:
        """``request`` has its first token (or, preempted before, its next) and generates the rest."""
        held = request.num_held_tokens
        request.residue = (self._num_done - held) % len(self._crossings)
        request.finish_at = self._num_done + request.call.num_output_tokens - request.num_generated
        self._crossings[request.residue] += 1
        self.num_sequences += 1
        self.context += held
        self._num_started += 1
        heappush(self._ends, (request.finish_at, self._num_started, request))

    def remove(self, request: Request) -> None:
        """Take ``request`` out before its end."""
        self._ends = [entry for entry in self._ends if entry[2] is not request]
        heapify(self._ends)
        self._stop(request)

    def advance(self, num_iterations: int) -> list[Request]:
        """Let so many iterations go by, at most to the first end; the requests whose last token is out."""
        self._num_done += num_iterations
        self.context += self.num_sequences * num_iterations
        ended = []
        while self._ends and self._ends[0][0] <= self._num_done:
            request = heappop(self._ends)[2]
            self._stop(request)
            ended.append(request)
        return ended

    def takes_a_block_next(self, request: Request) -> bool:
        """Whether ``request``, which is decoding, takes a block in the next iteration."""
        return request.residue == self._num_done % len(self._crossings)

    def growth_within(self, most: int, free_blocks: int) -> tuple[int, int]:
        """Of ``most`` iterations behind the next, how many ``free_blocks`` suffice for; their blocks."""
        size = len(self._crossings)
        cycles = min(most // size, free_blocks // self.num_sequences)
        num_iterations, num_blocks = cycles * size, cycles * self.num_sequences
        first = (self._num_done + 1) % size
        for needed in islice(self._crossings * 2, first, first + min(size, most - num_iterations)):
            if num_blocks + needed > free_blocks:
                break
            num_iterations += 1
            num_blocks += needed
        return num_iterations, num_blocks

    def _stop(self, request: Request) -> None:
        request.num_generated = request.call.num_output_tokens - (request.finish_at - self._num_done)
        self._crossings[request.residue] -= 1
        self.num_sequences -= 1
        self.context -= request.num_held_tokens
