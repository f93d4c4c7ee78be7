"""A naive twin of the cache: one dictionary entry a block, one scan an eviction, one tier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pbkv.traces.schema import Call

Prefix = tuple[int, ...]  # the tokens up to a block's end


@dataclass
class Block:
    last_access: float
    made_at: float
    num_hits: int


KEYS: dict[str, Callable[[Block], Any]] = {
    "lru": lambda block: block.last_access,
    "fifo": lambda block: block.made_at,
    "lfu": lambda block: (block.num_hits, block.last_access),
    "slru": lambda block: (block.num_hits >= 2, block.last_access),
}


def tokens_of(call: Call) -> list[int]:
    """A token sequence with the same shared prefixes as the call's segments."""
    tokens: list[int] = []
    for segment_id, length in zip(call.segment_ids, call.segment_tokens, strict=True):
        tokens.extend(segment_id * 1000 + position for position in range(length))
    return tokens


class NaiveCache:
    """Serves one call after the other, evicting single blocks, children before parents."""

    def __init__(self, policy: str, capacity: int, block_size: int) -> None:
        self.blocks: dict[Prefix, Block] = {}
        self._key = KEYS[policy]
        self._capacity = capacity
        self._block_size = block_size

    def serve(self, tokens: Sequence[int], answer: Sequence[int], now: float) -> int:
        """Look ``tokens`` up, then keep them and ``answer``; the number of leading blocks found."""
        found = self._prefixes(tokens, (len(tokens) - 1) // self._block_size)
        hits = next((i for i, prefix in enumerate(found) if prefix not in self.blocks), len(found))
        whole = [*tokens, *answer]
        wanted = self._prefixes(whole, min(len(whole) // self._block_size, self._capacity))
        for prefix in found[:hits]:
            self._touch(prefix, now)
        missing = [prefix for prefix in wanted[hits:] if prefix not in self.blocks]
        reserved = len(wanted) - hits  # taken before it is known what others have added behind the hits
        while len(self.blocks) + reserved > self._capacity:
            self._evict(keep=set(found[:hits]))
            missing = [prefix for prefix in wanted[hits:] if prefix not in self.blocks]
        for prefix in wanted[hits:]:
            if prefix in missing:
                self.blocks[prefix] = Block(now, now, 0)
            self._touch(prefix, now)
        return hits

    def _touch(self, prefix: Prefix, now: float) -> None:
        self.blocks[prefix].last_access = now
        self.blocks[prefix].num_hits += 1

    def _evict(self, keep: set[Prefix]) -> None:
        parents = {prefix[: -self._block_size] for prefix in self.blocks}
        leaves = [prefix for prefix in self.blocks if prefix not in parents and prefix not in keep]
        del self.blocks[min(leaves, key=lambda prefix: (self._key(self.blocks[prefix]), -len(prefix)))]

    def _prefixes(self, tokens: Sequence[int], num_blocks: int) -> list[Prefix]:
        return [tuple(tokens[: (i + 1) * self._block_size]) for i in range(num_blocks)]
