"""The simulated worker: an iteration takes what the cost model says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbkv.serve.decoding import Decoding
    from pbkv.serve.world import Chunk
    from pbkv.sim.cost_model import CostModel


class SimulatedWorker:
    """A `Worker` that does nothing, in the time that it would take."""

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost

    def iteration_s(self, chunks: Sequence[Chunk], decoding: Decoding) -> float:
        num_tokens, work, gathered = decoding.num_sequences, 0.0, 0
        for request, chunk in chunks:
            num_tokens += chunk
            work += chunk * (request.num_computed + chunk / 2)
            gathered += request.num_computed + chunk
        num_sequences = decoding.num_sequences + len(chunks)
        return self._cost.iteration_s(num_tokens, num_sequences, work, gathered, decoding.context)

    def decodes_s(self, decoding: Decoding, num_iterations: int) -> float:
        return self._cost.decode_run_s(decoding.num_sequences, decoding.context, num_iterations)

    def decodes_until(self, decoding: Decoding, seconds: float) -> int:
        return self._cost.decode_iterations_until(decoding.num_sequences, decoding.context, seconds)

    def expected_decode_s(self, decoding: Decoding) -> float:
        return self.decodes_s(decoding, 1)
