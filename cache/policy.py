"""A policy: a composition of four parts, each its own plug point, and of what follows workflows for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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

    Without ``admission`` whoever fits may start; without ``request_order`` the engine's own holds.
    """

    gpu_order: EvictionOrder
    host_order: EvictionOrder
    followers: tuple[Follower, ...] = ()
    prefetch: Prefetch | None = None
    admission: AdmissionRule | None = None
    request_order: RequestOrder | None = None
    predictor: Predictor | None = None  # that its followers ask


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What policies want to know, with the paper's values where it gives them.

    ``predictor`` is a name of `pbkv.predict.named`; ``rho`` the share of active cache that an aggressive
    prefetch may displace; ``inherit`` one of none, learned, all; ``host_order`` one of retired-first
    (then LRU), score; a workflow silent for ``idle_timeout_s`` counts as ended.
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

    def __post_init__(self) -> None:
        if self.host_order not in ("retired-first", "score"):
            raise ConfigError("host_order", self.host_order, "retired-first or score")
        if not self.idle_timeout_s > 0:
            raise ConfigError("idle_timeout_s", self.idle_timeout_s, "a number > 0")
        if not 0 <= self.forecast_delay_s < float("inf"):
            raise ConfigError("forecast_delay_s", self.forecast_delay_s, "a finite number ≥ 0")

    def make_predictor(self) -> Predictor:
        """A new one, as it learns. Raises ConfigError."""
        return named_predictor(self.predictor, self.num_steps, self.noise)
