"""Prompts that a log gives as hashes of blocks, cut to segments once all of them are known."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pbkv.traces.importers.blocks import HashedPrompt, block_size_of, to_segments

_FIRST_TAIL = 1 << 48  # ids of tails that no block hash covers: above all others


class BlockPrompts:
    """Prompts of block ids, and tails of tokens beyond the last hashed block, which nothing shares."""

    def __init__(self, path: Path, block_size: int | None) -> None:
        self._path, self._block_size = path, block_size
        self._prompts: list[HashedPrompt] = []
        self._tails = array("q")
        self._cut: list[tuple[array[int], array[int]]] = []

    def add(self, line: int, ids: Sequence[int], num_tokens: int, num_tail: int = 0) -> int:
        """A prompt of ``num_tokens`` in blocks ``ids``, and ``num_tail`` more: its number."""
        self._prompts.append(HashedPrompt(line, num_tokens, np.array(ids, np.uint64)))
        self._tails.append(num_tail)
        return len(self._prompts) - 1

    def seal(self) -> int:
        """Cut the prompts; returns the block size. Raises TraceError or ConfigError where none fits."""
        size = self._block_size or block_size_of(self._path, self._prompts)
        for ids, tokens in to_segments(self._path, self._prompts, size):
            self._cut.append((array("q", ids), array("q", tokens)))
        self._prompts.clear()
        return size

    def segments(self, number: int) -> tuple[list[int], list[int], list[str]]:
        ids, tokens = (list(part) for part in self._cut[number])
        if self._tails[number]:
            ids.append(_FIRST_TAIL + number)
            tokens.append(self._tails[number])
        return ids, tokens, ["context"] * len(ids)


def block_id(value: object) -> int | None:
    """A block's hash, a number or a text, as a number below 2^62; None for anything else."""
    if type(value) is int:
        return value % (1 << 62)
    if isinstance(value, str) and value:
        return (
            int.from_bytes(hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=8).digest(), "big")
            >> 2
        )
    return None


def block_ids(values: Iterable[object]) -> list[int] | None:
    """All of them; None if one is no hash, or if there is none."""
    found = [block_id(value) for value in values]
    known = [value for value in found if value is not None]
    return known if known and len(known) == len(found) else None
