"""What no client says: the cost of a miss on the engine at hand, and, for oracles, the workload's future."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbkv.cache.blocks import Key

POSITION_BITS = 32


def use_code(ordinal: int, position: int) -> int:
    """A use by call ``position`` of the workflow that is released as number ``ordinal``; sorts by both."""
    return ordinal << POSITION_BITS | position


@dataclass(frozen=True, slots=True)
class MissCosts:
    """Seconds that a miss costs, by the tier on which the blocks would have been found.

    ``prefill_s_per_token`` in a full batch, ``prefill_s_per_pair`` for each pair of a new token and one
    before it; a copy up takes ``load_latency_s`` and ``load_s_per_token``. The defaults are unit costs.
    """

    prefill_s_per_token: float = 1.0
    prefill_s_per_pair: float = 0.0
    load_latency_s: float = 0.0
    load_s_per_token: float = 1.0

    def prefill_s(self, num_before: int, num_tokens: int) -> float:
        """Seconds to compute ``num_tokens`` behind ``num_before`` others; what the batch costs anyway is not in it."""
        pairs = num_tokens * (num_before + num_tokens / 2)
        return num_tokens * self.prefill_s_per_token + pairs * self.prefill_s_per_pair

    def load_s(self, num_tokens: int) -> float:
        """Seconds to copy ``num_tokens`` from the host to the GPU over an idle link."""
        return self.load_latency_s + num_tokens * self.load_s_per_token


@dataclass(frozen=True, slots=True)
class CallUses:
    """The exact future: for each run of blocks the numbers of the calls that look it up, rising.

    Calls are numbered in the order of their events' ``now_s``, as `pbkv curve` serves them.
    """

    by_key: Mapping[Key, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Itinerary:
    """A workflow's calls: how many come before each on its longest chain, and the tool waits along it."""

    depths: Sequence[int]
    waits_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class WorkflowUses:
    """The future as far as no policy changes it: for each run the calls that look it up, as `use_code`.

    ``itineraries`` are in the order of release, ``ordinals`` their places in it by workflow id.
    """

    by_key: Mapping[Key, Sequence[int]]
    itineraries: Sequence[Itinerary]
    ordinals: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Known:
    """What a simulation can tell a policy beyond what clients say. Without ``uses`` there is no future.

    ``whole_nodes`` and ``block_size`` are those of the cache (`CacheConfig`).
    """

    uses: CallUses | WorkflowUses | None = None
    costs: MissCosts = MissCosts()  # noqa: RUF009 - frozen
    whole_nodes: bool = True
    block_size: int = 16


NOTHING_KNOWN = Known()
