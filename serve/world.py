"""What the engine asks of the world that it runs in: to do an iteration, and to carry copies out.

The simulator answers with seconds from a cost model, the replay by doing it and measuring. Seconds are
those of the run's clock, from now on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import simpy

    from pbkv.cache.decisions import Load
    from pbkv.cache.known import MissCosts
    from pbkv.cache.manager import CacheManager
    from pbkv.cache.pages import Pages
    from pbkv.cache.tiers import Tiers
    from pbkv.predict.forecast import Predictor
    from pbkv.serve.decoding import Decoding
    from pbkv.serve.request import Request
    from pbkv.traces.schema import Workflow

Chunk = tuple["Request", int]  # so many of its prompt tokens, next


class Hardware(Protocol):
    """What a run needs to know of the machine and the model before it begins."""

    @property
    def name(self) -> str: ...
    @property
    def kv_bytes_per_token(self) -> int: ...
    @property
    def default_kv_bytes(self) -> int:
        """Memory left for keys and values."""
        ...

    @property
    def max_batched_tokens(self) -> int:
        """The usual token budget of an iteration."""
        ...

    @property
    def miss_costs(self) -> MissCosts:
        """What it takes to compute a token again, or to copy it up: policies that weigh costs ask."""
        ...

    def to_dict(self) -> dict[str, object]:
        """For run.json."""
        ...


class Worker(Protocol):
    """Runs iterations: a forward pass of a batch each."""

    def iteration_s(self, chunks: Sequence[Chunk], decoding: Decoding) -> float:
        """Run one of these prefill chunks and all of ``decoding``; how long it takes."""
        ...

    def decodes_s(self, decoding: Decoding, num_iterations: int) -> float:
        """Run so many pure decode iterations, in which no sequence ends before the last; their seconds."""
        ...

    def decodes_until(self, decoding: Decoding, seconds: float) -> int:
        """How many pure decode iterations it is expected to take until ``seconds`` (> 0) are over; ≥ 1."""
        ...

    def expected_decode_s(self, decoding: Decoding) -> float:
        """What the next pure decode iteration is expected to take; nothing is run."""
        ...


class Copies(Protocol):
    """Carries the loads, prefetches and offloads out that the cache decides on.

    Each copy's line of the event log is written by it. The engine is told of a load's end by a callback,
    at its instant or in ``end_copies``, and of an offload's in ``end_copies``.
    """

    @property
    def block_bytes(self) -> int: ...
    @property
    def num_prefetching(self) -> int:
        """Prefetches that have not ended, and that nobody waits for."""
        ...

    @property
    def h2d_bytes_per_s(self) -> float:
        """Running mean of the bandwidth while it copied."""
        ...

    @property
    def busy_s(self) -> tuple[float, float]:
        """How long the link has copied up, and down."""
        ...

    @property
    def delayed(self) -> tuple[int, float]:
        """How many copies on demand found a prefetch in service, and how long they waited for it."""
        ...

    @property
    def may_offload_early(self) -> bool:
        """Whether nothing is being copied down."""
        ...

    @property
    def next_load_end_s(self) -> float:
        """The next instant at which a load or a prefetch is expected to end (inf: none is in flight)."""
        ...

    @property
    def next_offload_end_s(self) -> float: ...

    def start_load(self, load: Load) -> None: ...
    def start_prefetch(self, load: Load) -> None: ...
    def make_urgent(self, load: Load) -> None:
        """A request waits for ``load`` now: what is left of it, if a prefetch, goes before others."""
        ...

    def take_back_prefetches(self) -> list[Load]:
        """The prefetches whose copies have not begun, the last first; they will not be carried out."""
        ...

    def start_offloads(self) -> None:
        """Start what the cache has decided to offload since the last time."""
        ...

    def end_copies(self) -> bool:
        """Between two iterations: let take effect what has ended by now; whether an offload has."""
        ...

    def next_end_s(self) -> float | None:
        """Nothing runs until a copy has ended: how long that takes. None: none is in flight."""
        ...

    def idle_s(self, wants_offloads: bool) -> float | None:
        """Nothing runs: how long until it is to be asked again. None: until an event of the run's clock.

        ``wants_offloads``: the end of an offload may let something start.
        """
        ...


def _none_beside(predictor: Predictor) -> None:
    """Forecasts are there when they are asked for."""


class Forecasts(Protocol):
    """Forecasts that are worked out beside the iterations, and come some time after their prompts' ends."""

    @property
    def num_under_way(self) -> int:
        """Calls whose forecasts have not been taken."""
        ...

    def take(self) -> Sequence[Request]:
        """The calls whose forecasts have come since the last time, in the order of their prefills' ends.

        From now on the predictor has them. One that is late holds up those behind it.
        """
        ...

    def wait(self) -> None:
        """Until all that are under way have come."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """Who acts on the decisions of one cell. ``copies`` is made when the tiers are there.

    ``shows_vectors``: the worker shows `LiveCalls` the model's vector of each prompt that it has computed.
    ``keep_vectors`` is then called with each workflow at its end, as the cache knows it. ``forecasts`` is
    asked with the policy's predictor whether its forecasts are made beside the iterations (None: they are
    not, and the predictor is asked when a prompt has been computed).
    """

    env: simpy.Environment
    worker: Worker
    copies: Callable[[Tiers, Callable[[Load], None]], Copies]
    pages: Pages
    check: Callable[[CacheManager], None] | None = None  # after each call, in debug mode
    shows_vectors: bool = False
    keep_vectors: Callable[[Workflow], None] | None = None
    forecasts: Callable[[Predictor], Forecasts | None] = _none_beside
