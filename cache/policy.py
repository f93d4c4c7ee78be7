"""A policy: a composition of four parts, each its own plug point, and of what follows workflows for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pbkv.predict.named import named_predictor
from pbkv.traces.errors import ConfigError

if TYPE_CHECKING:
    from pbkv.cache.eviction import EvictionOrder
    from pbkv.cache.follower import Follower
    from pbkv.cache.prefetch import Prefetch
    from pbkv.cache.scheduling import AdmissionRule, RequestOrder
    from pbkv.predict.forecast import Predictor


@dataclass(frozen=True, slots=True)
class Policy:
    """Eviction order (of each tier), prefetch, admission and request order. Holds the state of one run.

    Without ``admission`` whoever fits may start; without ``request_order`` the engine's own holds. A policy
    that ``is_plugged_in`` is somebody else's code: the cache's invariants are checked as it runs.
    """

    gpu_order: EvictionOrder
    host_order: EvictionOrder
    followers: tuple[Follower, ...] = ()
    prefetch: Prefetch | None = None
    admission: AdmissionRule | None = None
    request_order: RequestOrder | None = None
    predictor: Predictor | None = None  # that its followers ask
    is_plugged_in: bool = False

    @property
    def other_parts(self) -> tuple[str, ...]:
        """What it has beside its eviction order, in words."""
        parts = {
            "prefetch": self.prefetch,
            "admission": self.admission,
            "request order": self.request_order,
        }
        return tuple(name for name, part in parts.items() if part is not None)

    def note(self) -> str:
        """After a run: what is to be said behind the policy's name, if anything."""
        return ", ".join(note for follower in self.followers if (note := follower.note()))


class PrefillCost(NamedTuple):
    """Seconds to compute blocks again, for policies that weigh them (GDSF, TTL); and to copy one up.

    The defaults are of the order of Llama-3.1-8B on an H100 with blocks of 16 tokens: reading the weights
    (16 GB), 16 GFLOP a token and 0.5 MFLOP a token of context at 400 TFLOP/s, 2 MiB a block at 32 GB/s.
    Orders of nodes change little with them; the simulator's own seconds come from its profile.
    """

    launch_s: float = 5e-3
    block_s: float = 6.5e-4
    block_of_context_s: float = 3.5e-7  # a block, for each block before it
    load_block_s: float = 6.5e-5

    def of(self, start: int, end: int) -> float:
        """Of blocks ``start`` to ``end``, behind their prefix."""
        depth = (end * end - start * start) / 2
        return self.launch_s + self.block_s * (end - start) + self.block_of_context_s * depth


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What policies want to know, with the paper's values where it gives them.

    ``predictor`` is a name of `pbkv.predict.named`; ``rho`` the share of active cache that an aggressive
    prefetch may displace; ``inherit`` one of none, learned, all; ``host_order`` one of retired-first
    (then LRU), score; a workflow silent for ``idle_timeout_s`` counts as ended. ``pause_limit_s`` is the
    longest pause of admission by capacity.
    """

    predictor: str = "markov:3"
    num_steps: int = 3
    gamma: float = 0.7
    noise: float = 0.0
    rho: float = 0.2
    inherit: str = "none"
    host_order: str = "retired-first"
    idle_timeout_s: float = float("inf")
    forecast_delay_s: float = 0.0
    pause_limit_s: float = 60.0
    prefill_cost: PrefillCost = PrefillCost()  # noqa: RUF009 - immutable

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ConfigError("num_steps", self.num_steps, "a number ≥ 1")
        if not 0 <= self.gamma <= 1:
            raise ConfigError("gamma", self.gamma, "a number from 0 to 1")
        for name in ("noise", "rho"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "a share from 0 to 1")
        if self.inherit not in ("none", "learned", "all"):
            raise ConfigError("inherit", self.inherit, "none, learned or all")
        if not self.pause_limit_s > 0:
            raise ConfigError("pause_limit_s", self.pause_limit_s, "a number > 0")
        if not (all(cost >= 0 for cost in self.prefill_cost) and self.prefill_cost.block_s > 0):
            raise ConfigError("prefill_cost", tuple(self.prefill_cost), "seconds ≥ 0, a block's > 0")
        if self.host_order not in ("retired-first", "score"):
            raise ConfigError("host_order", self.host_order, "retired-first or score")
        if not self.idle_timeout_s > 0:
            raise ConfigError("idle_timeout_s", self.idle_timeout_s, "a number > 0")
        if not 0 <= self.forecast_delay_s < float("inf"):
            raise ConfigError("forecast_delay_s", self.forecast_delay_s, "a finite number ≥ 0")

    def make_predictor(self) -> Predictor:
        """A new one, as it learns. Raises ConfigError."""
        return named_predictor(self.predictor, self.num_steps, self.noise)
