"""What to run: one object with every knob that worlds share, and the cells that it stands for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from pbkv.cache.config import CacheConfig, WriteMode
from pbkv.cache.named import capacity_of, make_policy
from pbkv.cache.options_used import unused_options
from pbkv.cache.policy import PolicyOptions
from pbkv.serve.config import EngineConfig
from pbkv.serve.faults import Faults
from pbkv.traces.errors import ConfigError
from pbkv.traces.records import TABLES

if TYPE_CHECKING:
    from pbkv.serve.world import Hardware

_LARGEST = 2**63  # what a Parquet column holds


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the workload. ``concurrency`` None is the open loop."""

    cell: int
    policy: str
    gpu_blocks: int
    host_blocks: int
    concurrency: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What to run: every combination of the tuples is a cell. Sizes in blocks, times in seconds.

    ``host_blocks`` holds one size for all, or, where it is empty, ``host_ratio`` × GPU blocks. With
    several seeds, or with ``shuffle``, a seed also shuffles the order of workflows. Workflows with a
    call that does not fit into the GPU tier are an error, or left out with ``skip_too_long``.
    """

    profile: Hardware
    policies: tuple[str, ...] = ("lru",)
    policy_options: PolicyOptions = PolicyOptions()  # noqa: RUF009 - frozen
    gpu_blocks: tuple[int, ...] = ()  # empty: what the profile's memory holds
    host_blocks: int | None = None
    host_ratio: float = 1.0
    concurrencies: tuple[int | None, ...] = (48,)
    seeds: tuple[int, ...] = (0,)
    shuffle: bool = False
    block_size: int = 16
    write_mode: WriteMode = WriteMode.WRITE_THROUGH
    early_offload: bool = False  # modes that copy at eviction: an idle link copies the next victims ahead
    whole_nodes: bool = True
    watermark_ratio: float = 0.01  # of the GPU tier, kept at admission (vLLM)
    prefill_reserve_tokens: int | None = None  # left free by prefetches; None: one prefill chunk (paper §4.3)
    engine: EngineConfig | None = None  # None: with the profile's token budget
    unknown_gap_s: float = 0.0
    sample_every_s: float = 1.0
    skip_too_long: bool = False
    faults: Faults = Faults()  # noqa: RUF009 - frozen
    cache_events: bool = True
    overheads: bool = False  # measure what the policy's decisions cost on this machine

    def __post_init__(self) -> None:
        _require_positive("block_size", self.block_size)
        for concurrency in self.concurrencies:
            _require_positive("concurrency", 1 if concurrency is None else concurrency)
        for name in ("host_ratio", "unknown_gap_s", "watermark_ratio"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(name, getattr(self, name), "a finite number ≥ 0")
        if self.prefill_reserve_tokens is not None and not 0 <= self.prefill_reserve_tokens < _LARGEST:
            raise ConfigError("prefill_reserve_tokens", self.prefill_reserve_tokens, "a number ≥ 0")
        if not self.sample_every_s > 0:
            raise ConfigError("sample_every_s", self.sample_every_s, "a number > 0")
        for seed in self.seeds:
            if not 0 <= seed < _LARGEST:
                raise ConfigError("seed", seed, f"a number from 0 to {_LARGEST - 1}")
        for name in ("policies", "gpu_blocks", "concurrencies", "seeds"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ConfigError(name, list(given), "each value once")
        self.policy_options.make_predictor()  # raises, whether a policy asks it or not
        for policy in self.policies:
            make_policy(policy, 0, self.policy_options)

    def unused_options(self) -> list[str]:
        """Options of policies that are not as by default and change nothing, as no policy uses them."""
        unused = unused_options(self.policy_options, self.policies)
        if self.prefill_reserve_tokens is None:
            return unused
        prefetches = any(make_policy(name, 0, self.policy_options).prefetch for name in self.policies)
        return unused if prefetches else [*unused, "prefill_reserve_tokens"]

    @property
    def shows_trace_vectors(self) -> bool:
        """Whether predictors are shown the trace's context vectors, and not a model's."""
        return True

    def cells(self) -> list[Cell]:
        """All combinations, policies varying fastest. Raises ConfigError for a capacity below a block."""
        loads = product(self._capacities(), self.concurrencies, self.seeds, self.policies)
        return [
            Cell(index, policy, gpu_blocks, host_blocks, concurrency, seed)
            for index, ((gpu_blocks, host_blocks), concurrency, seed, policy) in enumerate(loads)
        ]

    def cache_config(self, cell: Cell) -> CacheConfig:
        """Sizes and rules of the cell's cache."""
        gpu_blocks, host_blocks = capacity_of(cell.policy, cell.gpu_blocks, cell.host_blocks)
        return CacheConfig(
            gpu_blocks=gpu_blocks,
            host_blocks=host_blocks,
            block_size=self.block_size,
            write_mode=self.write_mode,
            whole_nodes=self.whole_nodes,
            watermark_blocks=int(cell.gpu_blocks * self.watermark_ratio),
            early_blocks=self._chunk_blocks() if self.early_offload else 0,
            prefetch_reserve_blocks=self._prefetch_reserve_blocks(),
        )

    def _chunk_blocks(self) -> int:
        """The blocks of one prefill chunk."""
        return -(-self.engine_config().max_batched_tokens // self.block_size)

    def _prefetch_reserve_blocks(self) -> int:
        reserve = self.prefill_reserve_tokens
        return self._chunk_blocks() if reserve is None else -(-reserve // self.block_size)

    def engine_config(self) -> EngineConfig:
        """Limits of the batch: as given, or usual on the profile's hardware."""
        return self.engine or EngineConfig(self.profile.max_batched_tokens)

    def tables(self) -> list[str]:
        """The tables that the run will have."""
        return [name for name in TABLES if self.cache_events or name != "cache_events"]

    def to_dict(self) -> dict[str, Any]:
        """For run.json: every setting with the value that was used."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "profile"}
        return {
            **values,
            "profile": self.profile.name,
            "engine": asdict(self.engine_config()),
            "policy_options": asdict(self.policy_options),
            "faults": asdict(self.faults),
        }

    def _capacities(self) -> list[tuple[int, int]]:
        block_bytes = self.block_size * self.profile.kv_bytes_per_token
        gpu_sizes = self.gpu_blocks or (self.profile.default_kv_bytes // block_bytes,)
        for gpu_blocks in gpu_sizes:
            _require_positive("gpu_blocks", gpu_blocks)
        capacities = []
        for size in gpu_sizes:
            host_size = round(size * self.host_ratio) if self.host_blocks is None else self.host_blocks
            if not 0 <= host_size < _LARGEST:
                raise ConfigError("host_blocks", host_size, f"a number from 0 to {_LARGEST - 1}")
            capacities.append((size, host_size))
        return capacities


def _require_positive(name: str, value: int) -> None:
    if not 1 <= value < _LARGEST:
        raise ConfigError(name, value, "a number ≥ 1")
