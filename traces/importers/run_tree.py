"""A radix tree over block sequences: which blocks only occur together.

Two prompts share exactly their leading run of equal blocks. So prompts form a tree; a run is a stretch of it
in which no prompt branches off and none ends.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from pbkv.traces.importers.block_file import BlockFile, Blocks
from pbkv.traces.importers.key_table import KeyTable, mixed

_ROOT = 0


class RunTree:
    """Runs are numbered; their blocks lie in ``file``. Memory: about 50 bytes a run, none a block."""

    def __init__(self, file: BlockFile) -> None:
        self._file = file
        self._starts, self._lengths = array("q", [0]), array("i", [0])
        self._followers = KeyTable()  # of a run, by their first block

    def __len__(self) -> int:
        return len(self._starts)

    def insert(self, start: int, blocks: Blocks) -> None:
        """Add ``blocks``, which lie at ``start``: a run then ends where they end or leave one."""
        position, before = 0, _ROOT
        while position < len(blocks):
            key = mixed(before, int(blocks[position]))
            run = self._followers.get(key)
            if run is None:
                self._followers.put(key, self._new(start + position, len(blocks) - position))
                return
            length = self._lengths[run]
            rest = blocks[position : position + length]
            known = self._file.read(self._starts[run], len(rest))
            num_shared = _num_shared(known, rest)
            if num_shared < length:
                run = self._split(key, run, num_shared)
            position, before = position + num_shared, run

    def runs(self, blocks: Blocks) -> Iterator[tuple[int, int]]:
        """Number and length of the runs of a sequence that was inserted."""
        position, run = 0, _ROOT
        while position < len(blocks):
            found = self._followers.get(mixed(run, int(blocks[position])))
            assert found is not None, "not inserted"
            run = found
            yield run, self._lengths[run]
            position += self._lengths[run]

    def _new(self, start: int, length: int) -> int:
        self._starts.append(start)
        self._lengths.append(length)
        return len(self._starts) - 1

    def _split(self, key: int, run: int, num_blocks: int) -> int:
        """A new run for the first blocks of ``run``, which keeps the others (and so what follows it)."""
        start = self._starts[run]
        upper = self._new(start, num_blocks)
        self._starts[run] += num_blocks
        self._lengths[run] -= num_blocks
        self._followers.put(key, upper)
        self._followers.put(mixed(upper, int(self._file.read(start + num_blocks, 1)[0])), run)
        return upper


def _num_shared(one: Blocks, other: Blocks) -> int:
    differing = np.flatnonzero(one != other)
    return int(differing[0]) if differing.size else len(one)
