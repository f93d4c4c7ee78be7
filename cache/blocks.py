"""From segments to blocks: which full blocks a prompt has, and which it shares with others.

A *run* is the stretch of full blocks whose last token lies in one segment. Its key is chained: equal
keys mean equal segments all the way from the first token, so two paths agree on a block exactly if
they give that position the same key. A path is therefore compared by its runs and never by its
blocks or tokens.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from copy import copy
from itertools import accumulate

Key = int


class BlockPath:
    """The full blocks of one token sequence, as runs.

    ``keys[i]`` names blocks ``ends[i-1] .. ends[i]`` (``ends`` strictly increasing, in blocks);
    ``segment_keys``/``token_ends`` are the same chain by segment, those without a full block included.
    """

    __slots__ = ("block_size", "ends", "keys", "num_tokens", "segment_keys", "token_ends")

    def __init__(self, block_size: int, segment_keys: list[Key], token_ends: list[int]) -> None:
        self.block_size = block_size
        self.segment_keys = segment_keys
        self.token_ends = token_ends
        self.num_tokens = token_ends[-1] if token_ends else 0
        self.keys: list[Key] = []
        self.ends: list[int] = []
        last = 0
        for key, token_end in zip(segment_keys, token_ends, strict=True):
            end = token_end // block_size
            if end > last:
                self.keys.append(key)
                self.ends.append(end)
                last = end

    @property
    def num_blocks(self) -> int:
        return self.ends[-1] if self.ends else 0

    @property
    def hit_limit(self) -> int:
        """Blocks that can be hits: the last prompt token is always computed, and with it its block."""
        return (self.num_tokens - 1) // self.block_size

    def leading(self, num_blocks: int) -> BlockPath:
        """The path's first blocks, at most ``num_blocks``; its tokens stay what they are."""
        if num_blocks >= self.num_blocks:
            return self
        cut = copy(self)
        last = bisect_left(self.ends, num_blocks)
        cut.keys, cut.ends = self.keys[: last + 1], [*self.ends[:last], num_blocks]
        return cut


def shared_runs(path: BlockPath, other: BlockPath) -> int:
    """How many leading runs two paths share. Keys are chained, so they are equal up to a point."""
    keys, others = path.keys, other.keys
    most = min(len(keys), len(others))
    return bisect_left(range(most), True, key=lambda index: keys[index] != others[index])


class PathTable:
    """Gives each distinct chain of segments a key, and remembers what was ever cached under it.

    Grows with the number of *distinct* segments of a trace, not with the number of its calls.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._keys: dict[tuple[Key, int], Key] = {}
        self._cached_tokens: dict[Key, int] = {}

    def path(
        self, segment_ids: Sequence[int], segment_tokens: Sequence[int], namespace: int = 0
    ) -> BlockPath:
        """The path of a prompt whose i-th segment has ``segment_tokens[i]`` tokens.

        Ids mean something within their ``namespace`` (≥ 0, one a trace): paths of two share nothing.
        """
        chain = self._chain(-namespace, segment_ids)
        return BlockPath(self.block_size, chain, list(accumulate(segment_tokens)))

    def extended(self, path: BlockPath, segment_id: int, num_tokens: int) -> BlockPath:
        """``path`` with one more segment (the generated answer) behind it."""
        last = path.segment_keys[-1] if path.segment_keys else 0
        keys = path.segment_keys + self._chain(last, (segment_id,))
        return BlockPath(self.block_size, keys, [*path.token_ends, path.num_tokens + num_tokens])

    def remember(self, path: BlockPath, from_token: int) -> None:
        """Note that the tokens of ``path`` behind ``from_token`` are cached from now on."""
        cached = self._cached_tokens
        first = bisect_right(path.token_ends, from_token)
        for key, token_end in zip(path.segment_keys[first:], path.token_ends[first:], strict=True):
            if cached.get(key, 0) < token_end:
                cached[key] = token_end

    def ever_cached_tokens(self, path: BlockPath, from_token: int) -> int:
        """Leading tokens of ``path`` that were cached at some time, given the first ``from_token`` were."""
        cached = self._cached_tokens
        reached = from_token
        for index in range(bisect_right(path.token_ends, from_token), len(path.token_ends)):
            token_end = path.token_ends[index]
            known = cached.get(path.segment_keys[index], 0)
            reached = max(reached, min(known, token_end))
            if known < token_end:
                break
        return reached

    def _chain(self, key: Key, segment_ids: Sequence[int]) -> list[Key]:
        table = self._keys
        chained = []
        for segment_id in segment_ids:
            link = (key, segment_id)
            found = table.get(link)
            if found is None:
                found = table[link] = len(table) + 1
            key = found
            chained.append(key)
        return chained
