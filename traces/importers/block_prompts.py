"""Prompts that a log gives as hashes of blocks, cut to segments once all of them are known.

A segment is a run of blocks that only occur together (`run_tree`). A last block that is not full counts as
another block than a full one with the same id, for a segment has one length in a trace. Blocks lie in a
temporary file; memory is 16 bytes a prompt and some 50 a run, whatever their lengths.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pbkv.traces.errors import ConfigError, TraceError
from pbkv.traces.importers.block_file import BlockFile, Blocks
from pbkv.traces.importers.key_table import mixed
from pbkv.traces.importers.lines import MAX_TOKENS, Row
from pbkv.traces.importers.run_tree import RunTree

_FIRST_TAIL = 1 << 48  # ids of tails that no block hash covers: above all others
_SIGN = 1 << 63


class BlockPrompts:
    """Prompts of block ids, and tails of tokens beyond the last hashed block, which nothing shares."""

    def __init__(self, path: Path, block_size: int | None = None) -> None:
        self._path, self.block_size = path, block_size
        self._file = BlockFile()
        self._tree = RunTree(self._file)
        self._starts, self._lines, self._tokens = array("q"), array("i"), array("i")
        self._tails: dict[int, int] = {}
        self._sizes = (1, MAX_TOKENS)  # block sizes that all prompts agree with: least and most
        self._ids = array("i")  # of segments, by run

    def __len__(self) -> int:
        return len(self._starts)

    def add(
        self, line: int, ids: Sequence[int] | npt.NDArray[np.uint64], num_tokens: int, num_tail: int = 0
    ) -> int:
        """A prompt of ``num_tokens`` in blocks ``ids``, and ``num_tail`` more: its number."""
        number, num_blocks = len(self), len(ids)
        self._starts.append(self._file.append(np.array(ids, np.uint64).view(np.int64)))
        self._lines.append(min(line, MAX_TOKENS))
        self._tokens.append(num_tokens)
        if num_tail:
            self._tails[number] = num_tail
        least, most = self._sizes
        least = max(least, -(-num_tokens // num_blocks))
        self._sizes = least, most if num_blocks == 1 else min(most, (num_tokens - 1) // (num_blocks - 1))
        return number

    def add_row(self, row: Row) -> int:
        """The prompt of a Mooncake row. Raises TraceError."""
        num_tokens = row.count("input_length", 1)
        raw = row.items("hash_ids")
        if set(map(type, raw)) != {int} or not 0 <= min(raw) <= max(raw) < 2**64:
            odd = [item for item in raw if type(item) is not int or not 0 <= item < 2**64]
            wanted = "whole numbers from 0 to 2^64 − 1, at least one"
            raise row.error("hash_ids", odd[0] if odd else raw, wanted)
        return self.add(row.line, raw, num_tokens)

    def seal(self, order: Iterable[int] | None = None) -> int:
        """Cut the prompts and number segments as they come in ``order``; returns the block size.

        Raises TraceError or ConfigError where no size fits. Nothing may be added afterwards.
        """
        self.block_size = self.block_size or self._only_size()
        self._file.flush()
        for number in range(len(self)):
            self._check_num_blocks(number, self.block_size)
            self._tree.insert(self._starts[number], self._coded(number, self.block_size))
        self._ids = array("i", [-1]) * len(self._tree)
        num_ids = 0
        for number in range(len(self)) if order is None else order:
            for run, _ in self._tree.runs(self._blocks(number)):
                if self._ids[run] < 0:
                    self._ids[run], num_ids = num_ids, num_ids + 1
        return self.block_size

    def segments(self, number: int) -> tuple[list[int], list[int], list[str]]:
        """Ids, lengths and kinds of a prompt's segments."""
        assert self.block_size is not None
        runs = list(self._tree.runs(self._blocks(number)))
        ids, tokens = [self._ids[run] for run, _ in runs], [length * self.block_size for _, length in runs]
        tokens[-1] -= -self._tokens[number] % self.block_size
        if number in self._tails:
            ids.append(_FIRST_TAIL + number)
            tokens.append(self._tails[number])
        return ids, tokens, ["context"] * len(ids)

    def new_texts(self, _: int, __: set[int]) -> None:
        """Hashes have no text."""

    def _num_blocks(self, number: int) -> int:
        end = self._starts[number + 1] if number + 1 < len(self) else self._file.num_blocks
        return end - self._starts[number]

    def _blocks(self, number: int) -> Blocks:
        return self._file.read(self._starts[number], self._num_blocks(number))

    def _coded(self, number: int, block_size: int) -> Blocks:
        """A prompt's blocks, from now on so that a full block keeps an id that fits, others are below 0."""
        raw = self._blocks(number)
        num_last = self._tokens[number] % block_size
        wide = [int(index) for index in np.flatnonzero(raw < 0)]
        if not wide and not num_last:
            return raw
        blocks = raw.copy()
        for index in wide:
            blocks[index] = _odd_block(int(raw[index]), block_size)
        if num_last:
            blocks[-1] = _odd_block(int(raw[-1]), num_last)
        self._file.overwrite(self._starts[number], blocks)
        return blocks

    def _only_size(self) -> int:
        """The block size that all prompts agree with; where several do, the only power of two among them."""
        least, most = self._sizes
        if least > most:
            expected = "one block size"
            raise TraceError(self._path, "hash_ids", f"blocks of ≥ {least} and of ≤ {most} tokens", expected)
        powers = [1 << power for power in range(31) if least <= 1 << power <= most]
        if least == most or len(powers) == 1:
            return least if least == most else powers[0]
        expected = f"a number from {least} to {most}, which {self._path} leaves open"
        raise ConfigError("block_size", "none", expected)

    def _check_num_blocks(self, number: int, block_size: int) -> None:
        num_tokens, found = self._tokens[number], self._num_blocks(number)
        expected = -(-num_tokens // block_size)
        if found != expected:
            field_name = f"line {self._lines[number]}: hash_ids"
            reason = f"{expected} ids ({num_tokens} tokens in blocks of {block_size})"
            raise TraceError(self._path, field_name, f"{found} ids", reason)


def _odd_block(block: int, num_tokens: int) -> int:
    """A number below 0 for a block that is not full, or whose id has 64 bits."""
    return (mixed(block, num_tokens) >> 1) - _SIGN


def block_id(value: object) -> int | None:
    """A block's hash, a number or a text, as a number below 2^62; None for anything else."""
    if type(value) is int:
        return value % (1 << 62)
    if isinstance(value, str) and value:
        digest = hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 2
    return None


def block_ids(values: Iterable[object]) -> list[int] | None:
    """All of them; None if one is no hash, or if there is none."""
    found = [block_id(value) for value in values]
    known = [value for value in found if value is not None]
    return known if known and len(known) == len(found) else None
