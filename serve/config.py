"""Limits of the engine's batch, and its order of admission."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pbkv.traces.errors import ConfigError

RequestOrder = Literal["fcfs", "lpm"]
Batching = Literal["mixed", "prefill-first"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of the batch, what goes into one, and the order of admission.

    ``mixed``: decodes and prefill chunks share an iteration (vLLM). ``prefill-first``: an iteration is
    prefill or decode, and prefill goes first (SGLang's default).
    """

    max_batched_tokens: int = 8192
    max_sequences: int = 256
    request_order: RequestOrder = "fcfs"
    batching: Batching = "mixed"
    fuse: bool = True

    def __post_init__(self) -> None:
        if self.request_order not in get_args(RequestOrder):
            raise ConfigError("request_order", self.request_order, "fcfs or lpm")
        if self.batching not in get_args(Batching):
            raise ConfigError("batching", self.batching, "mixed or prefill-first")
        if self.max_sequences < 1:
            raise ConfigError("max_sequences", self.max_sequences, "a number ≥ 1")
        if self.max_batched_tokens <= self.max_sequences:
            raise ConfigError(
                "max_batched_tokens",
                self.max_batched_tokens,
                f"more than max_sequences ({self.max_sequences})",
            )
