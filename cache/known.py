"""What no client says: the cost of a miss on the engine at hand, and, for oracles, the workload's future."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbkv.cache.blocks import Key

POSITION_BITS = 32
Code = int


def use_code(ordinal: int, position: int) -> Code:
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
        """Seconds that ``num_tokens`` behind ``num_before`` others add to a batch."""
        pairs = num_tokens * (num_before + num_tokens / 2)
        return num_tokens * self.prefill_s_per_token + pairs * self.prefill_s_per_pair

    def load_s(self, num_tokens: int) -> float:
        """Seconds to copy ``num_tokens`` from the host to the GPU over an idle link."""
        return self.load_latency_s + num_tokens * self.load_s_per_token


class Uses:
    """For each run of blocks the uses to come, as codes in rising order, and how far each reaches into it.

    Two paths that share a run's key may leave it at different blocks, where one of them ends there.
    """

    def __init__(self) -> None:
        self._codes: dict[Key, list[Code]] = {}
        self._reach: dict[Key, int] = {}  # block up to which the first use of a run reaches
        self._reaches: dict[Key, list[int]] = {}  # those of all its uses, where they differ
        self._known: dict[tuple[Key, int], list[Code]] = {}

    def add(self, key: Key, reach: int, code: Code) -> None:
        """Run ``key`` is looked up by ``code``, up to block ``reach``. Codes come in rising order."""
        codes = self._codes.setdefault(key, [])
        first = self._reach.setdefault(key, reach)
        if key in self._reaches:
            self._reaches[key].append(reach)
        elif reach != first:
            self._reaches[key] = [first] * len(codes) + [reach]
        codes.append(code)

    def of(self, key: Key, block: int) -> Sequence[Code]:
        """The uses of run ``key`` that reach ``block``."""
        reaches = self._reaches.get(key)
        if reaches is None:
            return self._codes[key] if block <= self._reach.get(key, 0) else ()
        known = self._known.get((key, block))
        if known is None:
            codes = zip(self._codes[key], reaches, strict=True)
            known = self._known[key, block] = [code for code, reach in codes if reach >= block]
        return known

    def step_below(self, key: Key, block: int) -> int:
        """The last block before ``block`` in run ``key`` that may have other uses; 0 if all have the same."""
        return max((reach for reach in set(self._reaches.get(key, ())) if reach < block), default=0)


@dataclass(frozen=True, slots=True)
class CallUses:
    """The exact future. A code is a call's number, which is also its events' ``now_s`` (`pbkv curve`)."""

    uses: Uses


@dataclass(frozen=True, slots=True)
class Itinerary:
    """A workflow's calls: how many come before each on its longest chain, and the tool waits along it."""

    depths: Sequence[int]
    waits_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class WorkflowUses:
    """The future as far as no policy changes it. A code is a call of a workflow, as in `use_code`.

    ``itineraries`` are in the order of release, ``ordinals`` their places in it by workflow id.
    """

    uses: Uses
    itineraries: Sequence[Itinerary]
    ordinals: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Known:
    """What a simulation can tell a policy beyond what clients say. Without ``uses`` there is no future.

    ``whole_nodes`` and ``block_size`` are those of the cache (`CacheConfig`); with ``copies_at_eviction``
    what leaves the GPU is written to the host then, if there is room.
    """

    uses: CallUses | WorkflowUses | None = None
    costs: MissCosts = MissCosts()
    whole_nodes: bool = True
    block_size: int = 16
    copies_at_eviction: bool = False


NOTHING_KNOWN = Known()
