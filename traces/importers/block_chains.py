"""Blocks stored in stretches, each behind a block that was stored before it; chains back to the first.

Only hashes that a stretch names as its parent are looked for, in one pass over all blocks at the end: memory
is some 40 bytes a stretch and none a block.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from pbkv.traces.importers.block_file import BlockFile, Blocks

_NONE = -1
_READ_AT_ONCE = 1 << 17


class BlockChains:
    """Add all stretches, ``close``, then ask for chains. Of a block stored twice, the first place counts."""

    def __init__(self) -> None:
        self._file = BlockFile()
        self._starts, self._parents = array("q"), array("q")
        self._places = np.empty(0, np.int64)

    def add(self, parent: int | None, blocks: Blocks) -> int:
        """A stretch behind the block of hash ``parent``: its number."""
        self._starts.append(self._file.append(blocks))
        self._parents.append(_NONE if parent is None else parent)
        return len(self._starts) - 1

    def close(self) -> int:
        """Find the parents; returns how many stretches have one that was not stored before them."""
        self._file.flush()
        parents = np.frombuffer(self._parents, np.int64)
        wanted = np.unique(parents[parents != _NONE])
        first = self._first_places(wanted)
        index = np.minimum(np.searchsorted(wanted, parents), max(len(wanted) - 1, 0))
        self._places = first[index] if len(wanted) else np.full(len(parents), _NONE, np.int64)
        is_lost = (parents != _NONE) & (self._places >= np.frombuffer(self._starts, np.int64))
        self._places[is_lost | (parents == _NONE)] = _NONE
        return int(is_lost.sum())

    def chain(self, stretch: int) -> Blocks:
        """All blocks from the first one to the last one of ``stretch``."""
        end = self._starts[stretch + 1] if stretch + 1 < len(self._starts) else self._file.num_blocks
        parts = []
        while True:
            start = self._starts[stretch]
            parts.append(self._file.read(start, end - start))
            place = int(self._places[stretch])
            if place == _NONE:
                return np.concatenate(parts[::-1])
            stretch, end = bisect_right(self._starts, place) - 1, place + 1

    def _first_places(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where each of the sorted hashes lies first; behind all blocks where it does not."""
        first = np.full(len(wanted), self._file.num_blocks, np.int64)
        for start in range(0, self._file.num_blocks if len(wanted) else 0, _READ_AT_ONCE):
            blocks = self._file.read(start, min(_READ_AT_ONCE, self._file.num_blocks - start))
            index = np.minimum(np.searchsorted(wanted, blocks), len(wanted) - 1)
            found = np.flatnonzero(wanted[index] == blocks)
            np.minimum.at(first, index[found], start + found)
        return first
