"""The rules of a cache that hold whatever its eviction order is: sizes, write mode, thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pbkv.traces.errors import ConfigError


class WriteMode(StrEnum):
    """When the host tier gets its copy (HiCache's three modes, and one that never holds a block twice)."""

    WRITE_THROUGH = "write-through"  # at the first use
    SELECTIVE = "write-through-selective"  # at the second use
    WRITE_BACK = "write-back"  # at eviction, which waits for the copy
    EXCLUSIVE = "exclusive"  # at eviction; given up again when loaded

    @classmethod
    def named(cls, name: str) -> WriteMode:
        """The mode called ``name``. Raises ConfigError."""
        if name not in list(cls):
            raise ConfigError("write_mode", name, "one of " + ", ".join(cls))
        return cls(name)


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Sizes in blocks and the rules that hold whatever the eviction order is."""

    gpu_blocks: int
    host_blocks: int
    block_size: int
    write_mode: WriteMode = WriteMode.WRITE_THROUGH
    whole_nodes: bool = True  # False: of the last victim only as many tail blocks as are needed
    min_load_tokens: int = 10  # fewer than this on the host are computed again (HiCache)
    watermark_blocks: int = 0  # kept free or evictable at each admission but the only one
    early_blocks: int = 0  # of the next victims, copied down on an idle link (modes that copy at eviction)
    prefetch_reserve_blocks: int = 0  # kept free by a prefetch (paper §4.3: one prefill chunk)

    def __post_init__(self) -> None:
        for name, minimum in (
            ("gpu_blocks", 1),
            ("host_blocks", 0),
            ("block_size", 1),
            ("watermark_blocks", 0),
            ("early_blocks", 0),
            ("prefetch_reserve_blocks", 0),
        ):
            if getattr(self, name) < minimum:
                raise ConfigError(name, getattr(self, name), f"a number ≥ {minimum}")
